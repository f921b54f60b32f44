package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/config"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/hsm/hsmtest"
	"holdfast/web/operation"
	"holdfast/xks/xkstest"
)

// TestTwoHSMs, whose operators made the master key: with the first cut off under load, KMS is answered as before, and
// told which HSM does not work; with both gone the lease runs.
func TestTwoHSMs(t *testing.T) {
	configs, shim := hsmtest.NewCluster(t)
	s := newSiteWith(t, configs[0], shim)
	s.cfg.HSM.Members = []config.Member{{Module: configs[1].Module, TokenLabel: configs[1].TokenLabel}}
	s.cfg.HSM.Lease = config.Duration(20 * time.Second) // longer than a busy machine stands still; an HSM is asked every quarter of it
	r := s.startBeside()
	k := r.newKeyStore()
	r.newKey("cached", appliance.CustodyCached, "")
	health := func() []appliance.HealthStatus {
		t.Helper()
		var list []appliance.HealthStatus
		for i, h := range r.status().HSMs {
			list = append(list, h.Status)
			if want := []string{configs[0].TokenLabel, configs[1].TokenLabel}[i]; h.Label != want {
				t.Errorf("HSM %d is %q, want %q", i, h.Label, want)
			}
		}
		return list
	}
	fleet := func() string {
		return fmt.Sprint(k.OK("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()})["ekmFleetDetails"])
	}
	// Here and below: on a busy machine an operation may take so long that the HSM counts
	// as degraded until it is asked again.
	eventually(t, func() error {
		if h := health(); len(h) != 2 || h[0] != appliance.HealthActive || h[1] != appliance.HealthActive {
			return fmt.Errorf("the HSMs are %v", h)
		}
		return nil
	})

	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	var answered atomic.Int64
	load.Go(func() {
		for ctx.Err() == nil {
			k.OK("/keys/cached/encrypt", xkstest.EncryptBody("x"))
			answered.Add(1)
		}
	})
	shim.Cut()
	from := len(s.log.String())
	s.logged(from, `msg=boot state=degraded .*code=E_HSM_AWAY`)
	eventually(t, func() error {
		if h := health(); h[0] == appliance.HealthActive || h[1] != appliance.HealthActive {
			return fmt.Errorf("with the first cut off the HSMs are %v", h)
		}
		if f := fleet(); !strings.Contains(f, "DEGRADED") || !strings.Contains(f, "ACTIVE") {
			return fmt.Errorf("KMS is told %s", f)
		}
		return nil
	})
	r.probes("/readyz", 200)
	// What needs an HSM now has one.
	r.newKey("while-away", appliance.CustodyHSM, "")
	k.OK("/keys/while-away/encrypt", xkstest.EncryptBody("x"))
	r.ok("POST", "keystores", operation.NewKeyStore{Name: "q", URIPathPrefix: "/q"}, nil)
	shim.Restore()
	s.logged(from, `msg=boot state=serving`)
	cancel()
	load.Wait()
	if answered.Load() == 0 {
		t.Error("there was no load")
	}
	eventually(t, func() error {
		if h := health(); h[0] != appliance.HealthActive || h[1] != appliance.HealthActive {
			return fmt.Errorf("with the first back the HSMs are %v", h)
		}
		return nil
	})
	k.OK("/keys/while-away/encrypt", xkstest.EncryptBody("x"))
	r.stop()

	// It starts with the second alone, too.
	shim.Cut()
	r = s.start()
	k = r.kms(k.AccessKeyID, k.SecretAccessKey)
	k.OK("/keys/cached/encrypt", xkstest.EncryptBody("x"))
	eventually(t, func() error {
		if b := r.status().Boot; b.State != progress.Degraded {
			return errors.New("it is " + string(b.State))
		}
		return nil
	})
}
