package appliance_test

import (
	"sync"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/hsm/hsmtest"
	"holdfast/xks/xkstest"
)

// clock is a time that passes when it is told to.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func healthStatus(k *xkstest.KMS) string {
	k.T.Helper()
	details := k.OK("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()})["ekmFleetDetails"].([]any)
	return details[0].(map[string]any)["healthStatus"].(string)
}

// eventually waits for what happens in the background.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// TestOutage: while the HSM is away the health answer says so, keys that are in
// memory serve, and those in the HSM's custody fail; when it is back, all is as
// it was, without a restart and with the same ciphertexts.
func TestOutage(t *testing.T) {
	token, shim := hsmtest.NewBehindShim(t)
	token.Pause = func(int) time.Duration { return time.Millisecond }
	time0 := &clock{now: time.Now()}
	b := xkstest.Start(t, xkstest.Options{Token: token, Appliance: appliance.Options{Now: time0.Now}})
	k := b.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
	k.Now = time0.Now
	b.NewKey(t, "demo", "cached", "encrypt,decrypt", appliance.CustodyCached)
	b.NewKey(t, "demo", "hsm", "encrypt,decrypt", appliance.CustodyHSM)
	sealed := map[string]xkstest.Body{}
	for _, id := range []string{"cached", "hsm"} {
		sealed[id] = k.OK("/keys/"+id+"/encrypt", xkstest.EncryptBody(id))
	}
	decrypts := func(id string) bool {
		a := k.Call("/keys/"+id+"/decrypt", xkstest.DecryptBody(sealed[id]))
		return a.Status == 200 && string(a.Body.Bytes(t, "plaintext")) == id
	}
	if got := healthStatus(k); got != "ACTIVE" {
		t.Fatalf("before: %s", got)
	}

	for name, outage := range map[string]struct{ away, back func() }{
		"cut off":   {shim.Cut, shim.Restore},
		"restarted": {func() { shim.Restart(); shim.Cut() }, shim.Restore},
	} {
		outage.away()
		// A result of less than a minute ago may stand (spec, GetHealthStatus).
		if got := healthStatus(k); got != "ACTIVE" {
			t.Errorf("%s: a fresh result is not used: %s", name, got)
		}
		time0.pass(61 * time.Second)
		if got := healthStatus(k); got != "DEGRADED" {
			t.Errorf("%s: health is %s", name, got)
		}
		if !decrypts("cached") {
			t.Errorf("%s: a key in memory does not serve", name)
		}
		k.OK("/keys/cached/encrypt", xkstest.EncryptBody("x"))
		k.OK("/keys/hsm/metadata", xkstest.Body{"requestMetadata": xkstest.Metadata()})
		k.Fails("/keys/hsm/encrypt", xkstest.EncryptBody("x"), 500, "InternalException")
		k.Fails("/keys/hsm/decrypt", xkstest.DecryptBody(sealed["hsm"]), 500, "InternalException")

		outage.back()
		eventually(t, name+", back", func() bool { return decrypts("hsm") })
		if !decrypts("cached") {
			t.Errorf("%s, back: a key in memory does not serve", name)
		}
		time0.pass(61 * time.Second)
		if got := healthStatus(k); got != "ACTIVE" {
			t.Errorf("%s, back: health is %s", name, got)
		}
	}
}

// TestSlowHSM: an HSM that answers too late for KMS is DEGRADED, and what waits
// for it is given up in time.
func TestSlowHSM(t *testing.T) {
	token, shim := hsmtest.NewBehindShim(t)
	time0 := &clock{now: time.Now()}
	o := xkstest.Options{Token: token, Appliance: appliance.Options{Now: time0.Now}}
	o.XKS.Timeout = 500 * time.Millisecond
	b := xkstest.Start(t, o)
	k := b.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
	k.Now = time0.Now
	b.NewKey(t, "demo", "cached", "encrypt,decrypt", appliance.CustodyCached)
	b.NewKey(t, "demo", "hsm", "encrypt,decrypt", appliance.CustodyHSM)
	k.OK("/keys/hsm/encrypt", xkstest.EncryptBody("x"))
	shim.Hang("C_Encrypt")
	defer shim.Release()
	k.Fails("/keys/hsm/encrypt", xkstest.EncryptBody("x"), 503, "DependencyTimeoutException")
	k.OK("/keys/cached/encrypt", xkstest.EncryptBody("x"))
	time0.pass(61 * time.Second)
	k.Fails("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()}, 503, "DependencyTimeoutException")
	shim.Release()
	eventually(t, "released", func() bool { return k.Call("/keys/hsm/encrypt", xkstest.EncryptBody("x")).Status == 200 })
}
