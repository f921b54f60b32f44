package identity_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// waits fails the test unless an attempt was refused for being one too many, with a time to wait
// that the message says as well.
func waits(t *testing.T, what string, err error) time.Duration {
	t.Helper()
	f, ok := errors.AsType[*fault.Fault](err)
	if !ok || f.Code != fault.Throttled || f.RetryAfter < time.Second || f.RetryAfter > time.Hour {
		t.Fatalf("%s: %v, and no time to wait", what, err)
	}
	if !strings.Contains(f.Message, "second") && !strings.Contains(f.Message, "minute") {
		t.Errorf("%s: %q does not say how long", what, f.Message)
	}
	return f.RetryAfter
}

// TestDeadToken: a program with a token that is not good any more is refused, and keeps neither
// people nor other programs behind the same address out.
func TestDeadToken(t *testing.T) {
	d := open(t, nil)
	ctx := t.Context()
	a := d.enrol("alice", identity.RoleAdministrator)
	everything := identity.Unlimited()
	dead, deadSecret, err1 := d.CreateToken(ctx, root, identity.NewToken{Name: "dead", Role: identity.RoleViewer, Scope: everything, Lifetime: time.Hour})
	_, goodSecret, err2 := d.CreateToken(ctx, root, identity.NewToken{Name: "good", Role: identity.RoleViewer, Scope: everything, Lifetime: time.Hour})
	_, err3 := d.RevokeToken(ctx, dead.ID)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	for name, secret := range map[string]string{"revoked": deadSecret, "unknown": "hf_of_the_test_system"} {
		var last error
		for range 200 {
			_, last = d.Bearer(ctx, secret, from)
		}
		wait := waits(t, name, last)
		if _, err := d.Bearer(ctx, "hf_another_"+name, from); fault.CodeOf(err) != fault.Unauthenticated {
			t.Errorf("%s: another token that is not good: %v", name, err)
		}
		d.pass(wait)
		if _, err := d.Bearer(ctx, secret, from); fault.CodeOf(err) != fault.Unauthenticated {
			t.Errorf("%s: after the time that was said: %v", name, err)
		}
		d.pass(time.Minute)
	}
	for i := range 60 { // as many others as there may be
		_, _ = d.Bearer(ctx, fmt.Sprintf("hf_guess_%d", i), from)
	}
	if n := strings.Count(d.log.String(), "tries too often"); n > 10 {
		t.Errorf("the log has a line for each of the attempts: %d", n)
	}
	if _, err := d.Bearer(ctx, goodSecret, from); err != nil {
		t.Errorf("a good token: %v", err)
	}
	d.pass(time.Minute)
	in, err := d.SignInPassword(ctx, "alice", password, d.code(a.secret), from)
	if err != nil {
		t.Fatalf("a person behind the same address: %v", err)
	}
	if _, err := d.Session(ctx, in.Token, true); err != nil {
		t.Errorf("their session: %v", err)
	}
	d.pass(time.Minute)
	if _, err := d.ProvePassword(ctx, in.Principal, password, d.code(a.secret), from); err != nil {
		t.Errorf("their proof of presence: %v", err)
	}
}

// TestGuesses: guesses are stopped, whatever is guessed, and those at one name leave room for the
// people behind the same address.
func TestGuesses(t *testing.T) {
	d := open(t, nil)
	ctx := t.Context()
	a, b := d.enrol("alice", identity.RoleAdministrator), d.enrol("bob", identity.RoleViewer)
	d.pass(time.Hour)
	guess := func(name string, from identity.Client) error {
		_, err := d.SignInPassword(ctx, name, "wrong", "000000", from)
		return err
	}
	for _, name := range []string{"alice", "nobody"} { // the same for a user that there is not
		taken := 0
		for taken < 100 && fault.CodeOf(guess(name, identity.Client{Address: "198.51.100.7:1"})) == fault.Unauthenticated {
			taken++
		}
		if taken != 10 {
			t.Errorf("%s: %d guesses at once", name, taken)
		}
		waits(t, name, guess(name, identity.Client{Address: "198.51.100.7:2"}))
		d.pass(time.Minute)
	}
	if _, err := d.SignInPassword(ctx, "bob", password, d.code(b.secret), identity.Client{Address: "198.51.100.7:3"}); err != nil {
		t.Errorf("another person behind the address: %v", err)
	}
	taken := 0
	for i := range 100 { // the same password for many names
		if fault.CodeOf(guess(fmt.Sprintf("user%d", i), from)) == fault.Unauthenticated {
			taken++
		}
	}
	if taken != 20 {
		t.Errorf("%d names at once", taken)
	}
	for what, try := range map[string]func() error{
		"setup code":     func() error { return errorOf(d.RedeemSetupCode(ctx, "AAAAAA-AAAAAA-AAAAAA-AAAAAA", "eve", from)) },
		"recovery codes": func() error { return errorOf(d.SignInPassword(ctx, "alice", password, "aaaa-bbbb-cccc-dddd", from)) },
		"passkey":        func() error { return errorOf(d.FinishPasskey(ctx, "made up", []byte("{}"), from)) },
		"in a session":   func() error { return errorOf(d.ProvePassword(ctx, a.Principal, "wrong", "000000", from)) },
	} {
		var err error
		for range 21 {
			err = try()
		}
		waits(t, what, err)
	}
}

// TestNetworks: one who has a whole network of IPv6 is one client.
func TestNetworks(t *testing.T) {
	for name, tt := range map[string]struct {
		address func(i int) string
		same    bool
	}{
		"one address":         {func(int) string { return "192.0.2.9:1" }, true},
		"other ports":         {func(i int) string { return fmt.Sprintf("192.0.2.9:%d", i) }, true},
		"other addresses":     {func(i int) string { return fmt.Sprintf("192.0.2.%d:1", i) }, false},
		"a /64":               {func(i int) string { return fmt.Sprintf("[2001:db8:0:1:%x::1]:1", i) }, true},
		"a /64 with zones":    {func(i int) string { return fmt.Sprintf("[fe80::1%%eth%d]:1", i) }, true},
		"other /64s":          {func(i int) string { return fmt.Sprintf("[2001:db8:0:%x::1]:1", i) }, false},
		"IPv4 in IPv6":        {func(i int) string { return []string{"[::ffff:192.0.2.9]:1", "192.0.2.9:1"}[i%2] }, true},
		"others IPv4 in IPv6": {func(i int) string { return fmt.Sprintf("[::ffff:192.0.2.%d]:1", i) }, false},
	} {
		d := open(t, nil)
		var err error
		for i := range 21 {
			_, err = d.RedeemSetupCode(t.Context(), "wrong", "alice", identity.Client{Address: tt.address(i)})
		}
		if got := fault.CodeOf(err) == fault.Throttled; got != tt.same {
			t.Errorf("%s: refused as one client: %v (%v)", name, got, err)
		}
	}
}

// TestNobodyLocksOut: an attacker who guesses at a user for ever, from everywhere, cannot keep
// the user out of a browser in which they have signed in, and learns nothing by it. Such a
// browser cannot be used to guess, and is none for another user.
func TestNobodyLocksOut(t *testing.T) {
	d := open(t, nil)
	ctx := t.Context()
	a, b := d.enrol("alice", identity.RoleAdministrator), d.enrol("bob", identity.RoleAdministrator)
	d.pass(time.Minute)
	home := identity.Client{Address: "203.0.113.1:1"}
	in, err := d.SignInPassword(ctx, "alice", password, d.code(a.secret), home)
	if err != nil || in.Device == "" {
		t.Fatalf("%+v %v", in, err)
	}
	home.Device = in.Device
	attack := func() {
		t.Helper()
		for i := range 10 {
			_, _ = d.SignInPassword(ctx, "alice", "wrong", "000000", identity.Client{Address: fmt.Sprintf("192.0.2.%d:1", i)})
		}
		for range 2 {
			_, _ = d.SignInPassword(ctx, "alice", "wrong", "000000", identity.Client{Address: home.Address})
		}
	}
	for range 2 {
		attack()
		d.pass(time.Minute)
		stranger := identity.Client{Address: "203.0.113.200:1"}
		wants(t, "from a browser that is not known", errorOf(d.SignInPassword(ctx, "alice", password, d.code(a.secret), stranger)), fault.Unauthenticated)
		d.pass(time.Minute)
		in, err := d.SignInPassword(ctx, "alice", password, d.code(a.secret), home)
		if err != nil {
			t.Fatalf("from the browser that is known: %v", err)
		}
		d.pass(time.Minute)
		if _, err := d.ProvePassword(ctx, in.Principal, password, d.code(a.secret), from); err != nil {
			t.Fatalf("in the session: %v", err)
		}
	}
	d.pass(time.Minute)
	taken := 0
	for range 40 {
		if _, err := d.SignInPassword(ctx, "alice", "wrong", "000000", home); fault.CodeOf(err) == fault.Unauthenticated {
			taken++
		}
	}
	if taken != 10 {
		t.Errorf("%d guesses at once in a browser that is known", taken)
	}
	waits(t, "the right password, after these", errorOf(d.SignInPassword(ctx, "alice", password, d.code(a.secret), home)))

	for i := range 10 { // bob is locked for strangers
		_, _ = d.SignInPassword(ctx, "bob", "wrong", "000000", identity.Client{Address: fmt.Sprintf("192.0.2.%d:1", 100+i)})
	}
	id, rest, _ := strings.Cut(home.Device, ".")
	for what, device := range map[string]string{"alice's": home.Device, "alice's, said to be bob's": b.id + "." + rest, "made up": b.id + ".1.AAAA", "cut off": id, "none": ""} {
		d.pass(31 * time.Second)
		wants(t, "bob in a browser that is "+what, errorOf(d.SignInPassword(ctx, "bob", password, d.code(b.secret), identity.Client{Address: "203.0.113.3:1", Device: device})), fault.Unauthenticated)
	}
	d.pass(identity.DeviceLifetime)
	for i := range 10 {
		_, _ = d.SignInPassword(ctx, "alice", "wrong", "000000", identity.Client{Address: fmt.Sprintf("192.0.2.%d:1", 200+i)})
	}
	wants(t, "after 90 days it is a stranger", errorOf(d.SignInPassword(ctx, "alice", password, d.code(a.secret), home)), fault.Unauthenticated)
}

// TestMadeUpNames: thousands of names that there are not are tried between the guesses in a stolen
// browser. Its guesses are counted on.
func TestMadeUpNames(t *testing.T) {
	d := open(t, nil)
	ctx := t.Context()
	a := d.enrol("alice", identity.RoleAdministrator)
	d.pass(time.Minute)
	in, err := d.SignInPassword(ctx, "alice", password, d.code(a.secret), identity.Client{Address: "203.0.113.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	stolen := identity.Client{Address: "198.51.100.7:1", Device: in.Device}
	d.pass(time.Hour)
	looked := 0
	for round := range 2 {
		for range 12 {
			if fault.CodeOf(errorOf(d.SignInPassword(ctx, "alice", password, "000000", stolen))) == fault.Unauthenticated {
				looked++
			}
		}
		for i := range 4200 {
			_, _ = d.SignInPassword(ctx, fmt.Sprintf("n%d-%d", round, i), "x", "0", identity.Client{Address: stolen.Address})
		}
	}
	if looked != 10 {
		t.Errorf("%d guesses in a browser that is known, within no time", looked)
	}
}

// TestStrangersFillNoLog: whatever a stranger tries a thousand times, from one address or from as
// many, the log has a bounded number of lines, and says how many it left out.
func TestStrangersFillNoLog(t *testing.T) {
	for what, try := range map[string]func(d *directory, i int, from identity.Client) error{
		"password": func(d *directory, i int, from identity.Client) error {
			return errorOf(d.SignInPassword(t.Context(), "nobody", "", "", from))
		},
		"setup code": func(d *directory, i int, from identity.Client) error {
			return errorOf(d.RedeemSetupCode(t.Context(), "AAAAAA", "eve", from))
		},
		"passkey": func(d *directory, i int, from identity.Client) error {
			return errorOf(d.FinishPasskey(t.Context(), "made up", []byte("{}"), from))
		},
		"invitation": func(d *directory, i int, from identity.Client) error {
			return errorOf(d.OpenInvitation(t.Context(), fmt.Sprint("made up ", i), from))
		},
		"enrolment": func(d *directory, i int, from identity.Client) error {
			return errorOf(d.BeginEnrolPassword(t.Context(), "made up", from))
		},
		"token": func(d *directory, i int, from identity.Client) error {
			return errorOf(d.Bearer(t.Context(), fmt.Sprint("hf_", i), from))
		},
		"OpenID": func(d *directory, i int, from identity.Client) error {
			return errorOf(d.FinishOIDC(t.Context(), "made up", "code", from))
		},
		"OpenID, to begin": func(d *directory, i int, from identity.Client) error {
			_, _, err := d.BeginOIDC(t.Context(), from)
			return err
		},
	} {
		const n = 1000
		for where, address := range map[string]func(i int) string{
			"one address":    func(int) string { return "192.0.2.1:1" },
			"many addresses": func(i int) string { return fmt.Sprintf("10.%d.%d.1:1", i/256, i%256) },
		} {
			if what == "password" && where == "many addresses" {
				continue // each would be looked at
			}
			d := open(t, func(c *identity.Config) {
				c.OIDC = &identity.OIDC{Issuer: "https://127.0.0.1:1", ClientID: "console"} // does not answer
			})
			for i := range n {
				if try(d, i, identity.Client{Address: address(i)}) == nil {
					t.Fatalf("%s was let in", what)
				}
			}
			most := 120
			if where == "one address" {
				most = 25
			}
			if lines := strings.Count(d.log.String(), "\n"); lines > most || lines == 0 {
				t.Errorf("%s from %s: %d lines", what, where, lines)
			}
			if what == "invitation" && where == "many addresses" {
				d.pass(time.Minute)
				_ = try(d, n, from)
				if !strings.Contains(d.log.String(), "left_out_before=900") {
					t.Error("how many were left out is not said")
				}
			}
		}
	}
}
