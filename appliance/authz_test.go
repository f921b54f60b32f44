package appliance_test

import (
	"cmp"
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
)

var allOperations = []appliance.Operation{appliance.OpEncrypt, appliance.OpDecrypt, appliance.OpGetAttributes}

func forbid(principal string) appliance.Grant {
	return appliance.Grant{Effect: appliance.EffectForbid, Principal: principal, Operations: allOperations}
}

// TestGrantRowsEditedByHand: each column of a grant is bound, of those that are
// as the first ones were and of those that are not. A prohibition that does not
// open forbids everything where it stands.
func TestGrantRowsEditedByHand(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	b.NewKey(t, "demo", "l", "encrypt,decrypt", appliance.CustodyCached)
	plain := must(b.Appliance.Grants(ctx, "demo"))(t)[0]
	prohibition := forbid("arn:aws:iam::999999999999:role/*")
	prohibition.KeyID, prohibition.NotAfter = "k", time.Now().Add(time.Hour)
	prohibition.Conditions.ViaServices = []string{"ebs"}
	strict := must(b.Appliance.AddGrant(ctx, "demo", prohibition))(t)
	if got := string(plain.Binding().AAD()); plain.Binding().Purpose != "grant" || strings.Contains(got, "allow") {
		t.Errorf("a grant of the first kind binds otherwise than then: %q", got)
	}
	answers := func() string {
		t.Helper()
		var out []string
		for _, key := range []string{"k", "l"} {
			_, err := k.Call(appliancetest.Encrypt(key, "x"))
			out = append(out, cmp.Or(string(fault.CodeOf(err)), "ok"))
		}
		return strings.Join(out, " ")
	}
	if got := answers(); got != "ok ok" {
		t.Fatal(got)
	}
	tests := []struct{ id, column, to, want string }{
		{plain.ID, "effect", "'forbid'", "denied denied"},
		{plain.ID, "effect", "'?'", "denied denied"},
		{plain.ID, "principal", "'*'", "denied denied"},
		{plain.ID, "operations", "'Encrypt'", "denied denied"},
		{plain.ID, "operations", "'Sign'", "denied denied"},
		{plain.ID, "conditions", `'{"via_services":["x"]}'`, "denied denied"},
		{plain.ID, "conditions", `'x'`, "denied denied"},
		{plain.ID, "not_after", "99999999999999", "denied denied"},
		{plain.ID, "created_at", "created_at + 1", "denied denied"},
		{plain.ID, "key_id", "'k'", "denied denied"},
		{plain.ID, "seal", "x'00'", "denied denied"},
		{strict.ID, "principal", "'arn:aws:iam::999999999999:role/none'", "denied ok"},
		{strict.ID, "operations", "'Encrypt'", "denied ok"},
		{strict.ID, "conditions", "''", "denied ok"},
		{strict.ID, "conditions", `'{"via_services":["x"]}'`, "denied ok"},
		{strict.ID, "conditions", `'['`, "denied ok"},
		{strict.ID, "not_after", "NULL", "denied ok"},
		{strict.ID, "not_after", "not_after + 1", "denied ok"},
		{strict.ID, "created_at", "created_at + 1", "denied ok"},
		{strict.ID, "key_id", "'l'", "ok denied"},
		{strict.ID, "key_id", "NULL", "denied denied"},
		{strict.ID, "seal", "x''", "denied ok"},
		// An allowance would have to be sealed; it is as good as deleted.
		{strict.ID, "effect", "'allow'", "ok ok"},
	}
	for _, tt := range tests {
		b.Stop()
		saved := must(os.ReadFile(b.DB))(t)
		edit(t, b.DB, "UPDATE grants SET "+tt.column+" = "+tt.to+" WHERE id = '"+tt.id+"'")
		b = restart(t, b, k, appliancetest.Options{Accept: true})
		if got := answers(); got != tt.want {
			t.Errorf("%s = %s: got %s, want %s", tt.column, tt.to, got, tt.want)
		}
		if !strings.Contains(b.Log.String(), tt.id) {
			t.Errorf("%s = %s: the log does not name the grant", tt.column, tt.to)
		}
		b.Stop()
		if err := os.WriteFile(b.DB, saved, 0o600); err != nil {
			t.Fatal(err)
		}
		b = restart(t, b, k, appliancetest.Options{})
		if got := answers(); got != "ok ok" {
			t.Fatalf("%s: restored, and got %s", tt.column, got)
		}
	}
}

// TestBlockRowsEditedByHand: who clears a block or a policy by hand, or changes
// its reason, gets nothing served.
func TestBlockRowsEditedByHand(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	policy := `@id("never") forbid (principal == Principal::"arn:aws:iam::123456789012:user/Nobody", action, resource);`
	if err := b.Appliance.SetPolicy(ctx, "demo", appliance.Policies{Cedar: policy}); err != nil {
		t.Fatal(err)
	}
	targets := map[string]appliance.BlockTarget{"external_keys": {KeyStore: "demo", KeyID: "k"}, "key_stores": {KeyStore: "demo"}, "installation": {Everything: true}}
	for table, target := range targets {
		changes := []string{"block_reason = '', block_since = NULL", "block_reason = 'another'", "block_since = block_since + 1"}
		seal := map[string]string{"installation": "block_seal"}[table]
		if seal == "" {
			seal = "seal"
		}
		changes = append(changes, "block_reason = '', block_since = NULL, "+seal+" = x''", "block_reason = '', block_since = NULL, "+seal+" = (SELECT max(seal) FROM grants)")
		if table == "installation" { // the others are NOT NULL
			changes = append(changes, "block_reason = '', block_since = NULL, block_seal = NULL", "block_seal = NULL")
		}
		for _, to := range changes {
			must(b.Appliance.Block(ctx, target, "a test", "alice"))(t)
			b.Stop()
			saved := must(os.ReadFile(b.DB))(t)
			edit(t, b.DB, "UPDATE "+table+" SET "+to)
			b = restart(t, b, k, appliancetest.Options{Accept: true})
			if _, err := k.Call(appliancetest.Encrypt("k", "x")); err == nil {
				t.Errorf("%s: %s: it serves", table, to)
			}
			b.Stop()
			if err := os.WriteFile(b.DB, saved, 0o600); err != nil {
				t.Fatal(err)
			}
			b = restart(t, b, k, appliancetest.Options{})
			if err := b.Appliance.Unblock(ctx, target); err != nil {
				t.Fatal(err)
			}
		}
	}
	k.OK(appliancetest.Encrypt("k", "x"))
	b.Stop()
	edit(t, b.DB, "UPDATE key_stores SET policy = ''")
	restart(t, b, k, appliancetest.Options{})
	k.Fails(appliancetest.Encrypt("k", "x"), fault.Tampered)
}

// TestExpiry: a grant ends when its time comes, without anybody doing anything.
func TestExpiry(t *testing.T) {
	var clock atomic.Int64
	begin := time.Now().Truncate(time.Millisecond)
	now := func() time.Time { return begin.Add(time.Duration(clock.Load())) }
	b := appliancetest.Start(t, appliancetest.Options{Appliance: appliance.Options{Now: now}})
	k := b.NewKeyStore(t, "demo", "/demo", "")
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	request := appliancetest.Encrypt("k", "x")
	g := appliance.Grant{Principal: appliancetest.Principal, Operations: allOperations, NotAfter: begin.Add(time.Minute)}
	must(b.Appliance.AddGrant(ctx, "demo", g))(t)
	k.OK(request)
	clock.Store(int64(time.Minute))
	k.OK(request)
	clock.Store(int64(time.Minute + time.Millisecond))
	k.Fails(request, fault.Denied)
	_, err := b.Appliance.AddGrant(ctx, "demo", g)
	wantCode(t, err, fault.Invalid)
	// A prohibition that ends.
	g.NotAfter = time.Time{}
	must(b.Appliance.AddGrant(ctx, "demo", g))(t)
	g.Effect, g.NotAfter = appliance.EffectForbid, begin.Add(2*time.Minute)
	must(b.Appliance.AddGrant(ctx, "demo", g))(t)
	k.Fails(request, fault.Denied)
	clock.Store(int64(2*time.Minute + time.Millisecond))
	k.OK(request)
}

// TestGrantsUnderLoad: of the requests that start after a change returned, each
// is decided by it; those of others are not disturbed.
func TestGrantsUnderLoad(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	b.NewKey(t, "demo", "l", "encrypt,decrypt", appliance.CustodyCached)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					k.OK(appliancetest.Encrypt("l", "x"))
					_, _ = k.Call(appliancetest.Encrypt("k", "x"))
				}
			}
		})
	}
	serves := func(what string, yes bool) {
		t.Helper()
		for range 3 {
			if _, err := k.Call(appliancetest.Encrypt("k", "x")); (err == nil) != yes {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	for range 10 {
		g := forbid("arn:aws:iam::123456789012:*")
		g.KeyID = "k"
		prohibited := must(b.Appliance.AddGrant(ctx, "demo", g))(t)
		serves("forbidden", false)
		if err := b.Appliance.RemoveGrant(ctx, "demo", prohibited.ID); err != nil {
			t.Fatal(err)
		}
		serves("not any more", true)
		if err := b.Appliance.SetPolicy(ctx, "demo", appliance.Policies{Cedar: `forbid (principal, action, resource == Key::"k");`}); err != nil {
			t.Fatal(err)
		}
		serves("forbidden by hand", false)
		if err := b.Appliance.SetPolicy(ctx, "demo", appliance.Policies{Cedar: ""}); err != nil {
			t.Fatal(err)
		}
		serves("not by hand any more", true)
		target := appliance.BlockTarget{KeyStore: "demo", KeyID: "k"}
		must(b.Appliance.Block(ctx, target, "a test", "alice"))(t)
		serves("blocked", false)
		if err := b.Appliance.Unblock(ctx, target); err != nil {
			t.Fatal(err)
		}
		serves("not blocked any more", true)
	}
	close(done)
	wg.Wait()
}

// unlockedKeys counts the keys that are ready for use.
type unlockedKeys struct {
	appliance.Keyring
	count atomic.Int64
}

type countedKey struct {
	appliance.UnlockedKey
	wipe func()
}

func (k countedKey) Wipe()  { k.wipe(); k.UnlockedKey.Wipe() }
func (k countedKey) Evict() { k.wipe(); k.UnlockedKey.Evict() }

func (r *unlockedKeys) Unlock(v *appliance.KeyVersion) (appliance.UnlockedKey, error) {
	u, err := r.Keyring.Unlock(v)
	if err != nil {
		return nil, err
	}
	r.count.Add(1)
	return countedKey{u, sync.OnceFunc(func() { r.count.Add(-1) })}, nil
}

// TestBlockWipes: when a block returned and the requests before it ended, no key
// of the target is unlocked, and those of others are.
func TestBlockWipes(t *testing.T) {
	counter := &unlockedKeys{}
	b := appliancetest.Start(t, appliancetest.Options{Keyring: func(r appliance.Keyring) appliance.Keyring { counter.Keyring = r; return counter }})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	other := b.NewKeyStore(t, "other", "/other", appliancetest.Principal)
	for _, id := range []string{"k", "l"} {
		b.NewKey(t, "demo", id, "encrypt,decrypt", appliance.CustodyCached)
	}
	b.NewKey(t, "other", "k", "encrypt,decrypt", appliance.CustodyCached)
	for _, tt := range []struct {
		target appliance.BlockTarget
		left   int64
	}{{appliance.BlockTarget{KeyStore: "demo", KeyID: "k"}, 2}, {appliance.BlockTarget{KeyStore: "demo"}, 1}, {appliance.BlockTarget{Everything: true}, 0}} {
		for range 5 {
			k.OK(appliancetest.Encrypt("k", "x"))
			k.OK(appliancetest.Encrypt("l", "x"))
			other.OK(appliancetest.Encrypt("k", "x"))
			if n := counter.count.Load(); n != 3 {
				t.Fatalf("%s: %d keys are unlocked before", tt.target, n)
			}
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for range 10 {
						_, _ = k.Call(appliancetest.Encrypt("k", "x"))
					}
				})
			}
			must(b.Appliance.Block(ctx, tt.target, "a test", "alice"))(t)
			k.Fails(appliancetest.Encrypt("k", "x"), fault.Conflict)
			wg.Wait()
			if n := counter.count.Load(); n != tt.left {
				t.Errorf("%s: %d keys are unlocked after, want %d", tt.target, n, tt.left)
			}
			if got := k.OK(appliancetest.Attributes("k")).Key.Blocked; got.IsZero() || !strings.HasSuffix(got.Reason, "a test") {
				t.Errorf("%s: the attributes have the block %+v", tt.target, got)
			}
			if err := b.Appliance.Unblock(ctx, tt.target); err != nil {
				t.Fatal(err)
			}
		}
	}
	wantCode(t, b.Appliance.Unblock(ctx, appliance.BlockTarget{Everything: true}), fault.Conflict)
	_, err := b.Appliance.Block(ctx, appliance.BlockTarget{KeyID: "k"}, "x", "alice")
	wantCode(t, err, fault.Invalid)
	for _, reason := range []string{"", "a\nb", strings.Repeat("x", 257)} {
		_, err := b.Appliance.Block(ctx, appliance.BlockTarget{Everything: true}, reason, "alice")
		wantCode(t, err, fault.Invalid)
	}
}

// slowKeyring hangs when a key is made in the token.
type slowKeyring struct {
	appliance.Keyring
	hangs chan struct{}
}

func (r slowKeyring) Generate(ctx context.Context, v *appliance.KeyVersion, object string) error {
	if object != "" {
		close(r.hangs)
		<-ctx.Done()
		return ctx.Err()
	}
	return r.Keyring.Generate(ctx, v, object)
}

// TestBlockDoesNotWait for an operation that waits for the HSM.
func TestBlockDoesNotWait(t *testing.T) {
	hangs := make(chan struct{})
	b := appliancetest.Start(t, appliancetest.Options{Keyring: func(r appliance.Keyring) appliance.Keyring { return slowKeyring{r, hangs} }})
	b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	waiting, stop := context.WithCancel(ctx)
	made := make(chan error)
	go func() {
		_, err := b.Appliance.CreateKey(waiting, "demo", appliance.NewExternalKey{ID: "h", Custody: appliance.CustodyHSM})
		made <- err
	}()
	<-hangs
	for _, target := range []appliance.BlockTarget{{KeyStore: "demo", KeyID: "k"}, {KeyStore: "demo"}, {Everything: true}} {
		must(b.Appliance.Block(ctx, target, "a test", "alice"))(t)
	}
	stop()
	if err := <-made; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestForcedPrincipal: a principal of a form that IAM does not have is refused, with what to
// do, and taken from who knows it. What cannot be sent at all is refused all the same; and a
// grant that was made before decides as it did.
func TestForcedPrincipal(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{})
	b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	for _, p := range []string{"new-service.amazonaws.com", "arn:aws-new:iam::123456789012:role/app", "arn:aws:iam::123456789012:group/x", "1234"} {
		want := appliance.Grant{Principal: p, Operations: []appliance.Operation{appliance.OpEncrypt}}
		if _, err := b.Appliance.AddGrant(ctx, "demo", want); fault.CodeOf(err) != fault.Invalid || !strings.Contains(err.Error(), "--force") {
			t.Errorf("%s: %v", p, err)
		}
		want.Force = true
		g, err := b.Appliance.AddGrant(ctx, "demo", want)
		if err != nil || g.Principal != p || g.Force {
			t.Errorf("%s, forced: %v %+v", p, err, g)
		}
	}
	via := appliance.Grant{Principal: "*", Operations: []appliance.Operation{appliance.OpEncrypt}, Conditions: appliance.Conditions{ViaServices: []string{"dynamodb.amazonaws.com"}}}
	if _, err := b.Appliance.AddGrant(ctx, "demo", via); fault.CodeOf(err) != fault.Invalid || !strings.Contains(err.Error(), "--force") {
		t.Errorf("a via service of no form: %v", err)
	}
	via.Force = true
	if _, err := b.Appliance.AddGrant(ctx, "demo", via); err != nil {
		t.Errorf("a via service of no form, forced: %v", err)
	}
	for _, p := range []string{"", "аlice", "arn:aws:iam::123456789012:role/a\u200bpp", "app-*"} {
		if _, err := b.Appliance.AddGrant(ctx, "demo", appliance.Grant{Principal: p, Force: true, Operations: []appliance.Operation{appliance.OpEncrypt}}); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%q, forced: %v", p, err)
		}
	}
}

// TestForcedPolicies: principals of a form that IAM does not have are told with their places, and
// taken from who knows them, as those of grants are. What cannot be sent is refused all the same.
func TestForcedPolicies(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{})
	b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	odd := appliance.Policies{Cedar: "permit (principal == Principal::\"new-service.amazonaws.com\", action, resource);\nforbid (principal in Account::\"1234\", action, resource);\nforbid (principal, action, resource) when { principal.name like \"arn:aws-new:iam::123456789012:role/*\" };"}
	for what, err := range map[string]error{"check": b.Appliance.CheckPolicy(ctx, "demo", odd), "set": b.Appliance.SetPolicy(ctx, "demo", odd)} {
		for _, want := range []string{"line 1, column 1: ", "new-service", "line 2, column 1: ", "12 digits", "line 3, column 1: ", "aws-new", "--force of holdfast grant policy"} {
			if fault.CodeOf(err) != fault.Invalid || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v lacks %q", what, err, want)
			}
		}
	}
	odd.Force = true
	if err := errors.Join(b.Appliance.CheckPolicy(ctx, "demo", odd), b.Appliance.SetPolicy(ctx, "demo", odd)); err != nil {
		t.Fatal(err)
	}
	if text, err := b.Appliance.Policy(ctx, "demo"); err != nil || text != odd.Cedar {
		t.Errorf("%v %s", err, text)
	}
	for _, p := range []string{"permit (principal == Principal::\"аlice\", action, resource);", "permit (principal == Principal::\"arn:aws:iam::123456789012:role/*\", action, resource);", "permit (principal, action, resource) when { context.colour == 1 };"} {
		wrong := appliance.Policies{Cedar: p, Force: true}
		if err := b.Appliance.SetPolicy(ctx, "demo", wrong); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%s, forced: %v", p, err)
		}
	}
}
