package appliance_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/hsm/hsmtest"
	"holdfast/xks/xkstest"
)

func readyz(b *xkstest.Bed, k *xkstest.KMS) int {
	k.T.Helper()
	r, err := http.NewRequest(http.MethodGet, b.URL+"/readyz", nil)
	if err != nil {
		k.T.Fatal(err)
	}
	return k.Do(r).Status
}

// TestSlowProbe: an HSM that takes longer than KMS waits is degraded, for as
// long as it does.
func TestSlowProbe(t *testing.T) {
	now := &clock{now: time.Now()}
	var takes atomic.Int64 // how long whatever lies between two looks at the clock takes
	b := xkstest.Start(t, xkstest.Options{Appliance: appliance.Options{Now: func() time.Time {
		defer now.pass(time.Duration(takes.Load()))
		return now.Now()
	}}})
	k := b.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
	k.Now = now.Now
	for _, tt := range []struct {
		takes time.Duration
		want  string
	}{
		{200 * time.Millisecond, "ACTIVE"}, {201 * time.Millisecond, "DEGRADED"}, {5 * time.Second, "DEGRADED"}, {time.Millisecond, "ACTIVE"},
	} {
		takes.Store(int64(tt.takes))
		now.pass(61 * time.Second)
		if got := healthStatus(k); got != tt.want {
			t.Errorf("a probe of %s: %s, want %s", tt.takes, got, tt.want)
		}
		h := b.Appliance.Status(ctx).HSMs[0]
		if said := strings.Contains(h.Error, tt.takes.String()); h.Took != tt.takes || said != (tt.want != "ACTIVE") {
			t.Errorf("a probe of %s is reported as %s: %q", tt.takes, h.Took, h.Error)
		}
		if got := readyz(b, k); got != http.StatusOK {
			t.Errorf("a probe of %s: /readyz answers %d", tt.takes, got)
		}
	}
}

// TestReadyWhileAway: as long as keys in memory serve, load balancers are told
// so, and administrators what is wrong; keys that were not used before serve as
// well.
func TestReadyWhileAway(t *testing.T) {
	token, shim := hsmtest.NewBehindShim(t)
	token.Pause = func(int) time.Duration { return time.Millisecond }
	now := &clock{now: time.Now()}
	b := xkstest.Start(t, xkstest.Options{Token: token, Appliance: appliance.Options{Now: now.Now, Lease: 1000 * time.Hour}})
	k := b.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
	k.Now = now.Now
	b.NewKey(t, "demo", "unused", "encrypt,decrypt", appliance.CustodyCached)
	if before := b.Appliance.Status(ctx).HSMs[0]; before.Status != appliance.HealthActive || before.Error != "" {
		t.Errorf("before: %+v", before)
	}
	shim.Cut()
	now.pass(61 * time.Second)
	if got := readyz(b, k); got != http.StatusOK {
		t.Errorf("/readyz answers %d", got)
	}
	away := b.Appliance.Status(ctx)
	if h := away.HSMs[0]; away.Locked || h.Status != appliance.HealthDegraded || h.Error == "" || h.Label != token.TokenLabel {
		t.Errorf("the status is %+v", away)
	}
	sealed := k.OK("/keys/unused/encrypt", xkstest.EncryptBody("x"))
	k.OK("/keys/unused/decrypt", xkstest.DecryptBody(sealed))
	shim.Restore()
	eventually(t, "back", func() bool {
		now.pass(61 * time.Second)
		return healthStatus(k) == "ACTIVE"
	})
	if h := b.Appliance.Status(ctx).HSMs[0]; h.Status != appliance.HealthActive || h.Error != "" {
		t.Errorf("back: %+v", h)
	}
	b.Appliance.Lock()
	if got := readyz(b, k); got != http.StatusServiceUnavailable {
		t.Errorf("locked: /readyz answers %d", got)
	}
}

// TestAdministrationWhileAway: what needs the HSM fails wholly; the same works
// when it is back, and nothing is left of the attempts.
func TestAdministrationWhileAway(t *testing.T) {
	token, shim := hsmtest.NewBehindShim(t)
	token.Pause = func(int) time.Duration { return time.Millisecond }
	b := xkstest.Start(t, xkstest.Options{Token: token})
	k := b.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
	for _, custody := range []appliance.Custody{appliance.CustodyCached, appliance.CustodyHSM} {
		b.NewKey(t, "demo", "old-"+string(custody), "encrypt,decrypt", custody)
	}
	attempts := map[string]func() error{
		"key store": func() error {
			_, err := b.Appliance.CreateKeyStore(ctx, appliance.KeyStore{Name: "new", URIPathPrefix: "/new"})
			return err
		},
	}
	for _, custody := range []appliance.Custody{appliance.CustodyCached, appliance.CustodyHSM} {
		attempts["key, "+string(custody)] = func() error {
			_, err := b.Appliance.CreateKey(ctx, "demo", appliance.NewExternalKey{ID: "new-" + string(custody), Custody: custody})
			return err
		}
		attempts["rotation, "+string(custody)] = func() error {
			_, err := b.Appliance.RotateKey(ctx, "demo", "old-"+string(custody), nil)
			return err
		}
	}
	shim.Cut()
	for name, attempt := range attempts {
		if err := attempt(); fault.CodeOf(err) != fault.Internal {
			t.Errorf("%s: %v", name, err)
		}
	}
	if keys := must(b.Appliance.Keys(ctx, "demo", appliance.Page{Limit: 10}))(t); len(keys) != 2 || keys[0].CurrentVersion != 1 || keys[1].CurrentVersion != 1 {
		t.Errorf("the keys are %+v", keys)
	}
	if stores := must(b.Appliance.KeyStores(ctx))(t); len(stores) != 1 {
		t.Errorf("the key stores are %+v", stores)
	}
	// What needs no HSM works.
	must(b.Appliance.AddGrant(ctx, "demo", appliance.Grant{Principal: "p", Operations: []appliance.Operation{appliance.OpEncrypt}}))(t)
	must(b.Appliance.SetKeyEnabled(ctx, "demo", "old-cached", false))(t)
	k.Fails("/keys/old-cached/encrypt", xkstest.EncryptBody("x"), 400, "InvalidStateException")

	shim.Restore()
	for name, attempt := range attempts {
		var err error
		eventually(t, name, func() bool { err = attempt(); return err == nil || !strings.Contains(err.Error(), "not available") })
		if err != nil {
			t.Errorf("%s, back: %v", name, err)
		}
	}
	b.Appliance.DestroyLeftovers(ctx)
	if left := must(b.Store.TokenObjects(ctx))(t); len(left) != 0 {
		t.Errorf("to be destroyed, and not: %+v", left)
	}
	d := doomed{Module: token.Module, TokenLabel: token.TokenLabel}
	if got := keyObjects(t, d); got != 3 {
		t.Errorf("there are %d key objects in the token, want two of the old key and one of the new", got)
	}
}
