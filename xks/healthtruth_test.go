package xks_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/hsm/hsmtest"
	"holdfast/xks/xkstest"
)

// TestHealthWhileBlocked: what is blocked cannot serve, and KMS and load balancers are
// told so, as far as it concerns them.
func TestHealthWhileBlocked(t *testing.T) {
	b := xkstest.Start(t, xkstest.Options{})
	one, two := b.NewKeyStore(t, "one", "/one", xkstest.Principal), b.NewKeyStore(t, "two", "/two", xkstest.Principal)
	everything, first, second := appliance.BlockTarget{Everything: true}, appliance.BlockTarget{KeyStore: "one"}, appliance.BlockTarget{KeyStore: "two"}
	for _, tt := range []struct {
		name     string
		blocked  []appliance.BlockTarget
		one, two string
		readyz   int
	}{
		{"nothing", nil, "ACTIVE", "ACTIVE", 200},
		{"everything", []appliance.BlockTarget{everything}, "UNAVAILABLE", "UNAVAILABLE", 503},
		{"one key store", []appliance.BlockTarget{first}, "UNAVAILABLE", "ACTIVE", 200},
		{"each key store", []appliance.BlockTarget{first, second}, "UNAVAILABLE", "UNAVAILABLE", 503},
		{"nothing any more", nil, "ACTIVE", "ACTIVE", 200},
	} {
		for _, target := range tt.blocked {
			if _, err := b.Appliance.Block(context.Background(), target, "test", "alice"); err != nil {
				t.Fatal(err)
			}
		}
		if got := healthStatus(one); got != tt.one {
			t.Errorf("%s blocked: key store one is told %s", tt.name, got)
		}
		if got := healthStatus(two); got != tt.two {
			t.Errorf("%s blocked: key store two is told %s", tt.name, got)
		}
		if got := readyz(b, one); got != tt.readyz {
			t.Errorf("%s blocked: /readyz answers %d", tt.name, got)
		}
		for _, target := range tt.blocked {
			if err := b.Appliance.Unblock(context.Background(), target); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestHealthByCustody: without its HSM a key store is DEGRADED if all its keys still
// serve, and UNAVAILABLE if some do not.
func TestHealthByCustody(t *testing.T) {
	token, shim := hsmtest.NewBehindShim(t)
	token.Pause = func(int) time.Duration { return time.Millisecond }
	now := appliancetest.NewClock()
	b := xkstest.Start(t, xkstest.Options{Token: token, Appliance: appliance.Options{Now: now.Now, Lease: 1000 * time.Hour}})
	cached, mixed := b.NewKeyStore(t, "cached", "/cached", xkstest.Principal), b.NewKeyStore(t, "mixed", "/mixed", xkstest.Principal)
	cached.Now, mixed.Now = now.Now, now.Now
	b.NewKey(t, "cached", "k", "encrypt,decrypt", appliance.CustodyCached)
	b.NewKey(t, "mixed", "k", "encrypt,decrypt", appliance.CustodyCached)
	b.NewKey(t, "mixed", "h", "encrypt,decrypt", appliance.CustodyHSM)
	tell := func(when, wantCached, wantMixed string) {
		t.Helper()
		now.Pass(61 * time.Second)
		if a, m := healthStatus(cached), healthStatus(mixed); a != wantCached || m != wantMixed {
			t.Errorf("%s: without keys in the HSM %s, with some %s", when, a, m)
		}
	}
	tell("well", "ACTIVE", "ACTIVE")
	shim.Cut()
	tell("away", "DEGRADED", "UNAVAILABLE")
	cached.OK("/keys/k/encrypt", xkstest.EncryptBody("x")) // it can still serve, as DEGRADED says
	mixed.Fails("/keys/h/encrypt", xkstest.EncryptBody("x"), 500, "InternalException")
	shim.Restore()
	appliancetest.Eventually(t, "back", func() bool {
		now.Pass(61 * time.Second)
		return healthStatus(mixed) == "ACTIVE"
	})
	tell("back", "ACTIVE", "ACTIVE")
}

// TestSlowHealthByCustody: an HSM that is too slow for KMS cannot serve the keys in its
// custody; one that is a little slow can.
func TestSlowHealthByCustody(t *testing.T) {
	now := appliancetest.NewClock()
	var takes atomic.Int64 // how long whatever lies between two looks at the clock takes
	ticking := func() time.Time {
		defer now.Pass(time.Duration(takes.Load()))
		return now.Now()
	}
	b := xkstest.Start(t, xkstest.Options{Appliance: appliance.Options{Now: ticking}})
	k := b.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
	k.Now = now.Now
	b.NewKey(t, "demo", "h", "encrypt,decrypt", appliance.CustodyHSM)
	for _, tt := range []struct {
		takes time.Duration
		want  string
	}{{time.Millisecond, "ACTIVE"}, {300 * time.Millisecond, "DEGRADED"}, {401 * time.Millisecond, "UNAVAILABLE"}} {
		takes.Store(int64(tt.takes))
		now.Pass(61 * time.Second)
		if got := healthStatus(k); got != tt.want {
			t.Errorf("a probe of %s: %s, want %s", tt.takes, got, tt.want)
		}
	}
}
