package xks_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/hsm/hsmtest"
	"holdfast/xks/xkstest"
)

func healthStatus(k *xkstest.KMS) string {
	k.T.Helper()
	details := k.OK("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()})["ekmFleetDetails"].([]any)
	return details[0].(map[string]any)["healthStatus"].(string)
}

func readyz(b *xkstest.Bed, k *xkstest.KMS) int {
	k.T.Helper()
	r, err := http.NewRequest(http.MethodGet, b.URL+"/readyz", nil)
	if err != nil {
		k.T.Fatal(err)
	}
	return k.Do(r).Status
}

// inTime calls an endpoint that gives a request a part of a second, until one is not cut because the
// machine was busy.
func inTime(k *xkstest.KMS, path string, body any) (a xkstest.Answer) {
	k.T.Helper()
	appliancetest.Eventually(k.T, path+" in time", func() bool {
		a = k.Call(path, body)
		return a.ErrorName() != "DependencyTimeoutException"
	})
	return a
}

// TestSlowHSM: an HSM that answers too late for KMS is DEGRADED, and what waits
// for it is given up in time.
func TestSlowHSM(t *testing.T) {
	token, shim := hsmtest.NewBehindShim(t)
	time0 := appliancetest.NewClock()
	o := xkstest.Options{Token: token, Appliance: appliance.Options{Now: time0.Now}}
	o.XKS.Timeout = 500 * time.Millisecond
	b := xkstest.Start(t, o)
	k := b.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
	k.Now = time0.Now
	b.NewKey(t, "demo", "cached", "encrypt,decrypt", appliance.CustodyCached)
	b.NewKey(t, "demo", "hsm", "encrypt,decrypt", appliance.CustodyHSM)
	if a := inTime(k, "/keys/hsm/encrypt", xkstest.EncryptBody("x")); a.Status != http.StatusOK {
		t.Fatalf("%d %s", a.Status, a.Text)
	}
	shim.Hang("C_Encrypt")
	defer shim.Release()
	k.Fails("/keys/hsm/encrypt", xkstest.EncryptBody("x"), 503, "DependencyTimeoutException")
	if a := inTime(k, "/keys/cached/encrypt", xkstest.EncryptBody("x")); a.Status != http.StatusOK {
		t.Errorf("%d %s", a.Status, a.Text)
	}
	time0.Pass(61 * time.Second)
	k.Fails("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()}, 503, "DependencyTimeoutException")
	shim.Release()
	appliancetest.Eventually(t, "released", func() bool { return k.Call("/keys/hsm/encrypt", xkstest.EncryptBody("x")).Status == 200 })
}

// TestSlowProbe: an HSM that takes longer than KMS waits is degraded, for as
// long as it does.
func TestSlowProbe(t *testing.T) {
	now := appliancetest.NewClock()
	var takes atomic.Int64 // how long whatever lies between two looks at the clock takes
	b := xkstest.Start(t, xkstest.Options{Appliance: appliance.Options{Now: func() time.Time {
		defer now.Pass(time.Duration(takes.Load()))
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
		now.Pass(61 * time.Second)
		if got := healthStatus(k); got != tt.want {
			t.Errorf("a probe of %s: %s, want %s", tt.takes, got, tt.want)
		}
		h := b.Appliance.Status(t.Context()).HSMs[0]
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
	now := appliancetest.NewClock()
	b := xkstest.Start(t, xkstest.Options{Token: token, Appliance: appliance.Options{Now: now.Now, Lease: 1000 * time.Hour}})
	k := b.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
	k.Now = now.Now
	b.NewKey(t, "demo", "unused", "encrypt,decrypt", appliance.CustodyCached)
	if before := b.Appliance.Status(t.Context()).HSMs[0]; before.Status != appliance.HealthActive || before.Error != "" {
		t.Errorf("before: %+v", before)
	}
	shim.Cut()
	now.Pass(61 * time.Second)
	if got := readyz(b, k); got != http.StatusOK {
		t.Errorf("/readyz answers %d", got)
	}
	away := b.Appliance.Status(t.Context())
	if h := away.HSMs[0]; away.Locked || h.Status != appliance.HealthDegraded || h.Error == "" || h.Label != token.TokenLabel {
		t.Errorf("the status is %+v", away)
	}
	sealed := k.OK("/keys/unused/encrypt", xkstest.EncryptBody("x"))
	k.OK("/keys/unused/decrypt", xkstest.DecryptBody(sealed))
	shim.Restore()
	appliancetest.Eventually(t, "back", func() bool {
		now.Pass(61 * time.Second)
		return healthStatus(k) == "ACTIVE"
	})
	if h := b.Appliance.Status(t.Context()).HSMs[0]; h.Status != appliance.HealthActive || h.Error != "" {
		t.Errorf("back: %+v", h)
	}
	b.Appliance.Lock()
	if got := readyz(b, k); got != http.StatusServiceUnavailable {
		t.Errorf("locked: /readyz answers %d", got)
	}
}
