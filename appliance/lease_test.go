package appliance_test

import (
	"bytes"
	"crypto/rand"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring/keyringtest"
	"holdfast/appliance/keyring/scrub"
	"holdfast/hsm/hsmtest"
)

// TestLease: with the HSM cut off under load service goes on until the lease
// runs out; then the keys are gone from memory and requests are refused; when
// the HSM is back it serves again by itself, what was encrypted before as well.
func TestLease(t *testing.T) {
	token, shim := hsmtest.NewBehindShim(t)
	token.Pause = func(int) time.Duration { return time.Millisecond }
	time0 := appliancetest.NewClock()
	b := appliancetest.Start(t, appliancetest.Options{Token: appliancetest.PKCS11(token), Appliance: appliance.Options{Now: time0.Now, Lease: 10 * time.Minute}})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		t.Fatal(err)
	}
	hidden := keyringtest.Hide(key)
	if _, err := b.Appliance.CreateKey(ctx, "demo", appliance.NewExternalKey{ID: "k", Usage: appliance.Usage{Encrypt: true, Decrypt: true},
		Custody: appliance.CustodyCached, Material: key}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(key, make([]byte, 32)) {
		t.Error("the imported material is not zeroized")
	}
	sealed := k.OK(appliancetest.Encrypt("k", "before")).Ciphertext
	if b.Appliance.Status(ctx).LeaseSeconds != 600 {
		t.Errorf("status: %+v", b.Appliance.Status(ctx))
	}

	// Requests all the while: what they are answered changes with the lease alone.
	// Time passes between them: one that is under way for minutes would be too old.
	var refused, unexpected atomic.Int64
	var between sync.RWMutex
	pass := func(d time.Duration) {
		between.Lock()
		defer between.Unlock()
		time0.Pass(d)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				between.RLock()
				_, err := k.Call(appliancetest.Encrypt("k", "x"))
				between.RUnlock()
				switch {
				case fault.CodeOf(err) == fault.Locked:
					refused.Add(1)
				case err != nil:
					t.Log(err)
					unexpected.Add(1)
				}
			}
		})
	}

	shim.Cut()
	for range 9 {
		pass(time.Minute + time.Second/2)
		b.Appliance.KeepLease(ctx)
		if got := healthStatus(k); got != appliance.HealthDegraded {
			t.Fatalf("within the lease, health is %s", got)
		}
	}
	if refused.Load() != 0 {
		t.Error("requests were refused within the lease")
	}
	pass(time.Minute)
	k.Fails(appliancetest.Encrypt("k", "x"), fault.Locked) // even before anybody has looked
	b.Appliance.KeepLease(ctx)
	s := b.Appliance.Status(ctx)
	if ready, _ := b.Appliance.Ready(ctx); !s.Locked || !strings.Contains(s.Reason, "lease of 10m0s") || ready {
		t.Errorf("after the lease: %+v", s)
	}
	b.Appliance.KeepLease(ctx) // the HSM is still away
	k.Fails(appliancetest.Health(), fault.Locked)
	close(stop)
	wg.Wait()
	if scrub.Enabled {
		if locked, elsewhere := hidden.Find(t); locked+elsewhere != 0 {
			t.Errorf("after the lease the key is %d times in locked memory and %d times elsewhere", locked, elsewhere)
		}
	}
	if unexpected.Load() != 0 {
		t.Errorf("%d requests got another answer than success or %s", unexpected.Load(), fault.Locked)
	}

	shim.Restore()
	appliancetest.Eventually(t, "unlocked again", func() bool { b.Appliance.KeepLease(ctx); return !b.Appliance.Locked() })
	if got := k.OK(appliancetest.Decrypt("k", sealed)).Plaintext; got != "before" {
		t.Errorf("decrypted %q", got)
	}
	if got := healthStatus(k); got != appliance.HealthActive {
		t.Errorf("back, health is %s", got)
	}
	if locked, _ := hidden.Find(t); scrub.Enabled && locked != 1 {
		t.Errorf("the search does not find the key that serves: %d times", locked)
	}
}

// TestLockEndsTheLease: what an administrator locks stays locked, HSM or not.
func TestLockEndsTheLease(t *testing.T) {
	token, shim := hsmtest.NewBehindShim(t)
	time0 := appliancetest.NewClock()
	b := appliancetest.Start(t, appliancetest.Options{Token: appliancetest.PKCS11(token), Appliance: appliance.Options{Now: time0.Now, Lease: time.Minute}})
	shim.Cut()
	time0.Pass(2 * time.Minute)
	b.Appliance.KeepLease(ctx)
	b.Appliance.Lock()
	shim.Restore()
	for range 3 {
		b.Appliance.KeepLease(ctx)
	}
	if !b.Appliance.Locked() {
		t.Error("a locked appliance unlocked itself")
	}
}
