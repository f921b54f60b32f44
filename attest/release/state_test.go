package release_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/attest"
)

// TestBrokerKnowsStates: the broker keeps the newest state that good evidence names, over a
// restart, also of a machine that has had its PIN, and tells it. An older one does not
// replace it.
func TestBrokerKnowsStates(t *testing.T) {
	s := newSite(t)
	s.releases(t)
	capped, err := s.platform.TPM.Cap()
	if err != nil {
		t.Fatal(err)
	}
	c := s.collector()
	c.Measurements = append(c.Measurements, capped)
	var serves *attest.State
	c.State = func(context.Context) *attest.State { return serves }
	state := func(n uint64, digest byte) *attest.State {
		return &attest.State{Sequence: n, Digest: bytes.Repeat([]byte{digest}, 32), At: time.Now().UTC().Truncate(time.Millisecond)}
	}
	tell := func(told *attest.State, want uint64, digest byte) {
		t.Helper()
		serves, s.client.Collect = told, c.Collect
		known, err := s.client.State(t.Context())
		switch {
		case err != nil:
			t.Error(err)
		case want == 0 && known != nil, want > 0 && (known == nil || known.Sequence != want || known.Digest[0] != digest || known.Since.IsZero()):
			t.Errorf("after %+v it knows %+v, want the number %d", told, known, want)
		}
	}
	tell(nil, 0, 0)
	tell(state(7, 1), 7, 1)
	tell(nil, 7, 1)
	tell(state(6, 2), 7, 1)
	tell(state(7, 3), 7, 1)
	s.serve(t)
	tell(nil, 7, 1)
	tell(state(9, 4), 9, 4)
	if log := s.logged(); strings.Count(log, "serves an older state") != 2 {
		t.Errorf("the log: %s", log)
	}
	// Nothing is told or kept on evidence that is not good, or under another name.
	serves = state(11, 5)
	s.client.Collect = func(ctx context.Context, nonce, tlsKey, releaseKey []byte) (*attest.Evidence, error) {
		e, err := c.Collect(ctx, nonce, tlsKey, releaseKey)
		if err == nil {
			e.State.Sequence++
		}
		return e, err
	}
	s.knowsNothing(t, "E_TPM_NONCE")
	s.client.Collect, s.client.Machine = c.Collect, "another"
	s.knowsNothing(t, string(fault.BrokerMachine))
	s.client.Machine = "../hsm-1"
	s.knowsNothing(t, string(fault.BrokerMachine))
	s.client.Machine = "hsm-1"
	tell(nil, 9, 4)
	s.client.Pin = "sha256/" + strings.Repeat("A", 43) + "="
	s.knowsNothing(t, string(fault.BrokerPIN))
	if _, err := s.vault.Machines(); err != nil {
		t.Error(err)
	}
}

func (s *site) knowsNothing(t *testing.T, code string) {
	t.Helper()
	known, err := s.client.State(t.Context())
	f, ok := errors.AsType[*fault.Fault](err)
	if known != nil || !ok || !strings.Contains(f.Codes(), code) {
		t.Errorf("it says %+v, %v; want %s", known, err, code)
	}
}
