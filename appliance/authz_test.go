package appliance_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/xks/xkstest"
)

var allOperations = []appliance.Operation{appliance.OpEncrypt, appliance.OpDecrypt, appliance.OpGetAttributes}

func forbid(principal string) appliance.Grant {
	return appliance.Grant{Effect: appliance.EffectForbid, Principal: principal, Operations: allOperations}
}

// TestGrantRowsEditedByHand: each column of a grant is bound, of those that are
// as the first ones were and of those that are not. A prohibition that does not
// open forbids everything where it stands.
func TestGrantRowsEditedByHand(t *testing.T) {
	b := xkstest.Start(t, xkstest.Options{})
	k := b.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
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
			out = append(out, fmt.Sprint(k.Call("/keys/"+key+"/encrypt", xkstest.EncryptBody("x")).Status))
		}
		return strings.Join(out, " ")
	}
	if got := answers(); got != "200 200" {
		t.Fatal(got)
	}
	tests := []struct{ id, column, to, want string }{
		{plain.ID, "effect", "'forbid'", "403 403"},
		{plain.ID, "effect", "'?'", "403 403"},
		{plain.ID, "principal", "'*'", "403 403"},
		{plain.ID, "operations", "'Encrypt'", "403 403"},
		{plain.ID, "operations", "'Sign'", "403 403"},
		{plain.ID, "conditions", `'{"via_services":["x"]}'`, "403 403"},
		{plain.ID, "conditions", `'x'`, "403 403"},
		{plain.ID, "not_after", "99999999999999", "403 403"},
		{plain.ID, "created_at", "created_at + 1", "403 403"},
		{plain.ID, "key_id", "'k'", "403 403"},
		{plain.ID, "seal", "x'00'", "403 403"},
		{strict.ID, "principal", "'arn:aws:iam::999999999999:role/none'", "403 200"},
		{strict.ID, "operations", "'Encrypt'", "403 200"},
		{strict.ID, "conditions", "''", "403 200"},
		{strict.ID, "conditions", `'{"via_services":["x"]}'`, "403 200"},
		{strict.ID, "conditions", `'['`, "403 200"},
		{strict.ID, "not_after", "NULL", "403 200"},
		{strict.ID, "not_after", "not_after + 1", "403 200"},
		{strict.ID, "created_at", "created_at + 1", "403 200"},
		{strict.ID, "key_id", "'l'", "200 403"},
		{strict.ID, "key_id", "NULL", "403 403"},
		{strict.ID, "seal", "x''", "403 200"},
		// An allowance would have to be sealed; it is as good as deleted.
		{strict.ID, "effect", "'allow'", "200 200"},
	}
	for _, tt := range tests {
		b.Stop()
		saved := must(os.ReadFile(b.DB))(t)
		edit(t, b.DB, "UPDATE grants SET "+tt.column+" = "+tt.to+" WHERE id = '"+tt.id+"'")
		b = restart(t, b, k, xkstest.Options{})
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
		b = restart(t, b, k, xkstest.Options{})
		if got := answers(); got != "200 200" {
			t.Fatalf("%s: restored, and got %s", tt.column, got)
		}
	}
}

// TestBlockRowsEditedByHand: who clears a block or a policy by hand, or changes
// its reason, gets nothing served.
func TestBlockRowsEditedByHand(t *testing.T) {
	b := xkstest.Start(t, xkstest.Options{})
	k := b.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	policy := `@id("never") forbid (principal == Principal::"nobody", action, resource);`
	if err := b.Appliance.SetPolicy(ctx, "demo", policy); err != nil {
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
			must(b.Appliance.Block(ctx, target, "a test"))(t)
			b.Stop()
			saved := must(os.ReadFile(b.DB))(t)
			edit(t, b.DB, "UPDATE "+table+" SET "+to)
			b = restart(t, b, k, xkstest.Options{})
			if a := k.Call("/keys/k/encrypt", xkstest.EncryptBody("x")); a.Status == 200 {
				t.Errorf("%s: %s: it serves", table, to)
			}
			b.Stop()
			if err := os.WriteFile(b.DB, saved, 0o600); err != nil {
				t.Fatal(err)
			}
			b = restart(t, b, k, xkstest.Options{})
			if err := b.Appliance.Unblock(ctx, target); err != nil {
				t.Fatal(err)
			}
		}
	}
	k.OK("/keys/k/encrypt", xkstest.EncryptBody("x"))
	b.Stop()
	edit(t, b.DB, "UPDATE key_stores SET policy = ''")
	restart(t, b, k, xkstest.Options{})
	k.Fails("/keys/k/encrypt", xkstest.EncryptBody("x"), 500, "InternalException")
}

// TestExpiry: a grant ends when its time comes, without anybody doing anything.
func TestExpiry(t *testing.T) {
	var clock atomic.Int64
	begin := time.Now().Truncate(time.Millisecond)
	now := func() time.Time { return begin.Add(time.Duration(clock.Load())) }
	b := xkstest.Start(t, xkstest.Options{Appliance: appliance.Options{Now: now}})
	k := b.NewKeyStore(t, "demo", "/demo", "")
	k.Now = now
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	body := xkstest.EncryptBody("x")
	g := appliance.Grant{Principal: xkstest.Principal, Operations: allOperations, NotAfter: begin.Add(time.Minute)}
	must(b.Appliance.AddGrant(ctx, "demo", g))(t)
	k.OK("/keys/k/encrypt", body)
	clock.Store(int64(time.Minute))
	k.OK("/keys/k/encrypt", body)
	clock.Store(int64(time.Minute + time.Millisecond))
	k.Fails("/keys/k/encrypt", body, 403, "AccessDeniedException")
	_, err := b.Appliance.AddGrant(ctx, "demo", g)
	wantCode(t, err, fault.Invalid)
	// A prohibition that ends.
	g.NotAfter = time.Time{}
	must(b.Appliance.AddGrant(ctx, "demo", g))(t)
	g.Effect, g.NotAfter = appliance.EffectForbid, begin.Add(2*time.Minute)
	must(b.Appliance.AddGrant(ctx, "demo", g))(t)
	k.Fails("/keys/k/encrypt", body, 403, "AccessDeniedException")
	clock.Store(int64(2*time.Minute + time.Millisecond))
	k.OK("/keys/k/encrypt", body)
}

// TestGrantsUnderLoad: of the requests that start after a change returned, each
// is decided by it; those of others are not disturbed.
func TestGrantsUnderLoad(t *testing.T) {
	b := xkstest.Start(t, xkstest.Options{})
	k := b.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
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
					k.OK("/keys/l/encrypt", xkstest.EncryptBody("x"))
					k.Call("/keys/k/encrypt", xkstest.EncryptBody("x"))
				}
			}
		})
	}
	serves := func(what string, yes bool) {
		t.Helper()
		for range 3 {
			if a := k.Call("/keys/k/encrypt", xkstest.EncryptBody("x")); (a.Status == 200) != yes {
				t.Errorf("%s: %s", what, a.Text)
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
		if err := b.Appliance.SetPolicy(ctx, "demo", `forbid (principal, action, resource == Key::"k");`); err != nil {
			t.Fatal(err)
		}
		serves("forbidden by hand", false)
		if err := b.Appliance.SetPolicy(ctx, "demo", ""); err != nil {
			t.Fatal(err)
		}
		serves("not by hand any more", true)
		target := appliance.BlockTarget{KeyStore: "demo", KeyID: "k"}
		must(b.Appliance.Block(ctx, target, "a test"))(t)
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

func (k countedKey) Wipe() { k.wipe(); k.UnlockedKey.Wipe() }

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
	b := xkstest.Start(t, xkstest.Options{Keyring: func(r appliance.Keyring) appliance.Keyring { counter.Keyring = r; return counter }})
	k := b.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
	other := b.NewKeyStore(t, "other", "/other", xkstest.Principal)
	for _, id := range []string{"k", "l"} {
		b.NewKey(t, "demo", id, "encrypt,decrypt", appliance.CustodyCached)
	}
	b.NewKey(t, "other", "k", "encrypt,decrypt", appliance.CustodyCached)
	for _, tt := range []struct {
		target appliance.BlockTarget
		left   int64
	}{{appliance.BlockTarget{KeyStore: "demo", KeyID: "k"}, 2}, {appliance.BlockTarget{KeyStore: "demo"}, 1}, {appliance.BlockTarget{Everything: true}, 0}} {
		for range 5 {
			k.OK("/keys/k/encrypt", xkstest.EncryptBody("x"))
			k.OK("/keys/l/encrypt", xkstest.EncryptBody("x"))
			other.OK("/keys/k/encrypt", xkstest.EncryptBody("x"))
			if n := counter.count.Load(); n != 3 {
				t.Fatalf("%s: %d keys are unlocked before", tt.target, n)
			}
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for range 10 {
						k.Call("/keys/k/encrypt", xkstest.EncryptBody("x"))
					}
				})
			}
			must(b.Appliance.Block(ctx, tt.target, "a test"))(t)
			k.Fails("/keys/k/encrypt", xkstest.EncryptBody("x"), 400, "InvalidStateException")
			wg.Wait()
			if n := counter.count.Load(); n != tt.left {
				t.Errorf("%s: %d keys are unlocked after, want %d", tt.target, n, tt.left)
			}
			if got := k.OK("/keys/k/metadata", xkstest.Body{"requestMetadata": xkstest.Metadata()})["keyStatus"]; got != "DISABLED" {
				t.Errorf("%s: keyStatus %v", tt.target, got)
			}
			if err := b.Appliance.Unblock(ctx, tt.target); err != nil {
				t.Fatal(err)
			}
		}
	}
	wantCode(t, b.Appliance.Unblock(ctx, appliance.BlockTarget{Everything: true}), fault.Conflict)
	_, err := b.Appliance.Block(ctx, appliance.BlockTarget{KeyID: "k"}, "x")
	wantCode(t, err, fault.Invalid)
	for _, reason := range []string{"", "a\nb", strings.Repeat("x", 257)} {
		_, err := b.Appliance.Block(ctx, appliance.BlockTarget{Everything: true}, reason)
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
	b := xkstest.Start(t, xkstest.Options{Keyring: func(r appliance.Keyring) appliance.Keyring { return slowKeyring{r, hangs} }})
	b.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
	b.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	waiting, stop := context.WithCancel(ctx)
	made := make(chan error)
	go func() {
		_, err := b.Appliance.CreateKey(waiting, "demo", appliance.NewExternalKey{ID: "h", Custody: appliance.CustodyHSM})
		made <- err
	}()
	<-hangs
	for _, target := range []appliance.BlockTarget{{KeyStore: "demo", KeyID: "k"}, {KeyStore: "demo"}, {Everything: true}} {
		must(b.Appliance.Block(ctx, target, "a test"))(t)
	}
	stop()
	if err := <-made; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
