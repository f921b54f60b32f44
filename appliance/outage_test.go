package appliance_test

import (
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/hsm/hsmtest"
)

func healthStatus(k *appliancetest.Client) appliance.HealthStatus {
	k.T.Helper()
	return k.OK(appliancetest.Health()).HSMs[0].Status
}

// TestOutage: while the HSM is away the health answer says so, keys that are in
// memory serve, and those in the HSM's custody fail; when it is back, all is as
// it was, without a restart and with the same ciphertexts.
func TestOutage(t *testing.T) {
	token, shim := hsmtest.NewBehindShim(t)
	token.Pause = func(int) time.Duration { return time.Millisecond }
	time0 := appliancetest.NewClock()
	b := appliancetest.Start(t, appliancetest.Options{Token: appliancetest.PKCS11(token), Appliance: appliance.Options{Now: time0.Now}})
	k := b.NewKeyStore(t, "demo", "/demo", appliancetest.Principal)
	b.NewKey(t, "demo", "cached", "encrypt,decrypt", appliance.CustodyCached)
	b.NewKey(t, "demo", "hsm", "encrypt,decrypt", appliance.CustodyHSM)
	sealed := map[string]*appliance.Ciphertext{}
	for _, id := range []string{"cached", "hsm"} {
		sealed[id] = k.OK(appliancetest.Encrypt(id, id)).Ciphertext
	}
	decrypts := func(id string) bool {
		a, err := k.Call(appliancetest.Decrypt(id, sealed[id]))
		return err == nil && a.Plaintext == id
	}
	if got := healthStatus(k); got != appliance.HealthActive {
		t.Fatalf("before: %s", got)
	}

	for name, outage := range map[string]struct{ away, back func() }{
		"cut off":   {shim.Cut, shim.Restore},
		"restarted": {func() { shim.Restart(); shim.Cut() }, shim.Restore},
	} {
		outage.away()
		// A result of less than a minute ago may stand (spec, GetHealthStatus).
		if got := healthStatus(k); got != appliance.HealthActive {
			t.Errorf("%s: a fresh result is not used: %s", name, got)
		}
		time0.Pass(61 * time.Second)
		if got := healthStatus(k); got != appliance.HealthUnavailable { // as a key in its custody fails
			t.Errorf("%s: health is %s", name, got)
		}
		if !decrypts("cached") {
			t.Errorf("%s: a key in memory does not serve", name)
		}
		k.OK(appliancetest.Encrypt("cached", "x"))
		k.OK(appliancetest.Attributes("hsm"))
		k.Fails(appliancetest.Encrypt("hsm", "x"), fault.Internal)
		k.Fails(appliancetest.Decrypt("hsm", sealed["hsm"]), fault.Internal)

		outage.back()
		appliancetest.Eventually(t, name+", back", func() bool { return decrypts("hsm") })
		if !decrypts("cached") {
			t.Errorf("%s, back: a key in memory does not serve", name)
		}
		time0.Pass(61 * time.Second)
		if got := healthStatus(k); got != appliance.HealthActive {
			t.Errorf("%s, back: health is %s", name, got)
		}
	}
}
