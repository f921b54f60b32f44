package xks_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/changelogtest"
	"holdfast/appliance/fault"
	"holdfast/xks/xkstest"
)

// fullLog is an audit log that takes no records for as long as the test wants.
type fullLog struct{ full atomic.Bool }

var errFull = fault.Errorf(fault.AuditNoSpace, "the disk of the audit log is full")

func (l *fullLog) Ready() error {
	if l.full.Load() {
		return errFull
	}
	return nil
}

func (l *fullLog) RecordOutcome(context.Context, *appliance.Outcome) error {
	if err := l.Ready(); err != nil {
		return errors.Join(err)
	}
	return nil
}

// circumstance is one thing that may stop requests.
type circumstance struct {
	name string
	// set brings it about, and gives what takes it back.
	set func(s *standing) (undo func())
}

// standing is an appliance whose standing is compared with what it does.
type standing struct {
	t    *testing.T
	bed  *xkstest.Bed
	kms  *xkstest.KMS
	node *staleNode
	log  *fullLog
}

func (s *standing) block(target appliance.BlockTarget) func() {
	if _, err := s.bed.Appliance.Block(s.t.Context(), target, "why not", "alice"); err != nil {
		s.t.Fatal(err)
	}
	return func() {
		if err := s.bed.Appliance.Unblock(s.t.Context(), target); err != nil {
			s.t.Fatal(err)
		}
	}
}

func flag(b *atomic.Bool) func() {
	b.Store(true)
	return func() { b.Store(false) }
}

func nothing(*standing) func() { return func() {} }

// circumstances by what they are about: of each group one holds at a time, and all combinations
// are tried.
var circumstances = [][]circumstance{
	{ // blocks
		{"", nothing},
		{"everything blocked", func(s *standing) func() { return s.block(appliance.BlockTarget{Everything: true}) }},
		{"key store blocked", func(s *standing) func() { return s.block(appliance.BlockTarget{KeyStore: "demo"}) }},
		{"key blocked", func(s *standing) func() { return s.block(appliance.BlockTarget{KeyStore: "demo", KeyID: "k"}) }},
	},
	{ // the key's own state
		{"", nothing},
		{"disabled", func(s *standing) func() { return s.enable(false, func() { s.enable(true, nil) }) }},
		{"pending deletion", func(s *standing) func() {
			if _, err := s.bed.Appliance.ScheduleDeletion(s.t.Context(), "demo", "k", 7); err != nil {
				s.t.Fatal(err)
			}
			return func() {
				if _, err := s.bed.Appliance.CancelDeletion(s.t.Context(), "demo", "k"); err != nil {
					s.t.Fatal(err)
				}
				s.enable(true, nil)
			}
		}},
	},
	{ // the credential
		{"", nothing},
		{"credential inactive", func(s *standing) func() {
			set := func(active bool) {
				if _, err := s.bed.Appliance.SetCredentialActive(s.t.Context(), "demo", s.kms.AccessKeyID, active); err != nil {
					s.t.Fatal(err)
				}
			}
			set(false)
			return func() { set(true) }
		}},
	},
	{ // the node
		{"", nothing},
		{"stale", func(s *standing) func() { return flag(&s.node.stale) }},
		{"drained", func(s *standing) func() { return flag(&s.node.drained) }},
		{"fading", func(s *standing) func() { return flag(&s.node.fading) }},
	},
	{ // the audit log
		{"", nothing},
		{"log full", func(s *standing) func() { return flag(&s.log.full) }},
	},
}

func (s *standing) enable(enabled bool, undo func()) func() {
	if _, err := s.bed.Appliance.SetKeyEnabled(s.t.Context(), "demo", "k", enabled); err != nil {
		s.t.Fatal(err)
	}
	return undo
}

// TestStandingIsWhatIsDone: over all combinations of blocks, states of a key, of its credential, of
// the node and of the audit log, everything that shows a standing shows what KMS is answered:
// the key, its key store, the credential, the appliance, GetKeyMetadata, GetHealthStatus, /readyz.
func TestStandingIsWhatIsDone(t *testing.T) {
	s := &standing{t: t, node: &staleNode{}, log: &fullLog{}}
	s.bed = xkstest.Start(t, xkstest.Options{Appliance: appliance.Options{Fleet: s.node, ChangeLog: changelogtest.NewMemory(nil), Recorder: s.log}})
	s.kms = s.bed.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
	s.bed.NewKey(t, "demo", "k", "encrypt,decrypt", appliance.CustodyCached)
	s.bed.NewKey(t, "demo", "other", "encrypt,decrypt", appliance.CustodyCached)
	s.bed.NewKey(t, "demo", "out", "encrypt,decrypt", appliance.CustodyCached)
	if _, err := s.bed.Appliance.SetKeyEnabled(t.Context(), "demo", "out", false); err != nil {
		t.Fatal(err)
	}
	var try func(name string, groups [][]circumstance)
	tried := 0
	try = func(name string, groups [][]circumstance) {
		if len(groups) == 0 {
			tried++
			s.compare(name)
			return
		}
		for _, c := range groups[0] {
			undo := c.set(s)
			try(name+"/"+c.name, groups[1:])
			undo()
		}
	}
	try("", circumstances)
	if tried != 4*3*2*4*2 {
		t.Errorf("%d combinations were tried", tried)
	}
	s.bed.Appliance.Lock()
	s.compareLocked()
}

// keysThatStand names those of the keys that stand so.
func keysThatStand(keys []*appliance.ExternalKey, state appliance.StandingState) (list string) {
	for _, k := range keys {
		if k.Standing.State == state {
			list += " " + k.ID
		}
	}
	return list
}

// compare compares what is shown with what is done.
func (s *standing) compare(name string) {
	s.t.Helper()
	a, ctx := s.bed.Appliance, s.t.Context()
	answered := s.kms.Call("/keys/k/encrypt", xkstest.EncryptBody("x"))
	does := answered.Status == http.StatusOK
	key, err := a.ShowKey(ctx, "demo", "k")
	if err != nil {
		s.t.Fatal(err)
	}
	listed, err := a.Keys(ctx, "demo", appliance.Page{Limit: 10}, "")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, state := range appliance.StandingStates() {
		found, err := a.Keys(ctx, "demo", appliance.Page{Limit: 10}, state)
		if err != nil {
			s.t.Fatal(err)
		}
		rows := len(found)
		if found, want := keysThatStand(found, state), keysThatStand(listed, state); found != want || len(strings.Fields(found)) != rows {
			s.t.Errorf("%s: of the keys that are %s the list has%s, want%s", name, state, found, want)
		}
	}
	detail, err := a.ShowKeyStore(ctx, "demo")
	if err != nil {
		s.t.Fatal(err)
	}
	stores, err := a.KeyStores(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	if key.Standing.Serves != does {
		s.t.Errorf("%s: KMS is answered %d %s, and the key's standing is %+v", name, answered.Status, answered.Text, key.Standing)
	}
	if listed[0].Standing != key.Standing {
		s.t.Errorf("%s: the key is %+v, and in the list %+v", name, key.Standing, listed[0].Standing)
	}
	if stores[0].Standing != detail.Standing || a.Standings()["demo"] != detail.Standing && len(a.Standings()) > 0 {
		s.t.Errorf("%s: the key store is %+v, in the list %+v, and in memory %+v", name, detail.Standing, stores[0].Standing, a.Standings()["demo"])
	}
	// A key store serves if a key of it could; the appliance if a key store could.
	if does && !(detail.Standing.Serves && detail.Credentials[0].Standing.Serves && a.Standing().Serves) {
		s.t.Errorf("%s: KMS is answered, and the key store is %+v, the credential %+v, the appliance %+v", name, detail.Standing, detail.Credentials[0].Standing, a.Standing())
	}
	if decides := key.Standing.Decides; !does && decides != appliance.DecidesKey && detail.Standing != key.Standing {
		s.t.Errorf("%s: the key is %+v, and its key store %+v", name, key.Standing, detail.Standing)
	}
	// Of a key that is out of service itself nobody learns first that its key store has no credential.
	if !does && key.Standing.Decides == appliance.DecidesKey && !detail.Standing.Serves && detail.Standing.State != appliance.StandingNoCredential {
		s.t.Errorf("%s: the key decides, and its key store is %+v", name, detail.Standing)
	}
	if st := a.Standing(); st.Serves == (key.Standing.Decides == appliance.DecidesNode || key.Standing.Decides == appliance.DecidesEverything) && !does {
		if key.Standing.Decides != appliance.DecidesKeyStore { // the only key store, and so all of them
			s.t.Errorf("%s: the key is %+v, and the appliance %+v", name, key.Standing, st)
		}
	}
	s.compareKMS(name, detail.Standing)
}

// compareKMS compares with what KMS and load balancers are told when they ask.
func (s *standing) compareKMS(name string, store appliance.Standing) {
	s.t.Helper()
	key, err := s.bed.Appliance.ShowKey(s.t.Context(), "demo", "k")
	if err != nil {
		s.t.Fatal(err)
	}
	metadata := s.kms.Call("/keys/k/metadata", xkstest.Body{"requestMetadata": xkstest.Metadata()})
	if enabled := metadata.Body["keyStatus"] == "ENABLED"; enabled != key.Standing.Serves {
		s.t.Errorf("%s: GetKeyMetadata tells %s, and the key is %+v", name, metadata.Text, key.Standing)
	}
	health := s.kms.Call("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()})
	if active := strings.Contains(health.Text, `"healthStatus":"ACTIVE"`); active != store.Serves {
		s.t.Errorf("%s: GetHealthStatus tells %s, and the key store is %+v", name, health.Text, store)
	}
	st := s.bed.Appliance.Standing()
	takes := st.Serves && st.State != appliance.StandingDrained && st.State != appliance.StandingFading
	if ready := readyz(s.bed, s.kms) == http.StatusOK; ready != takes {
		s.t.Errorf("%s: /readyz says %v, and the appliance is %+v", name, ready, st)
	}
}

// compareLocked does so where no key can be looked at.
func (s *standing) compareLocked() {
	s.t.Helper()
	answered := s.kms.Call("/keys/k/encrypt", xkstest.EncryptBody("x"))
	stores, err := s.bed.Appliance.KeyStores(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	for what, st := range map[string]appliance.Standing{"appliance": s.bed.Appliance.Standing(), "key store": stores[0].Standing} {
		if st.Serves || st.State != appliance.StandingLocked || st.Says == "" {
			s.t.Errorf("locked, and KMS is answered %d: the %s is %+v", answered.Status, what, st)
		}
	}
	if answered.Status == http.StatusOK || readyz(s.bed, s.kms) != http.StatusServiceUnavailable {
		s.t.Errorf("a locked appliance answers %d %s", answered.Status, answered.Text)
	}
	if got := fmt.Sprint(answered.Body["errorMessage"]); got != stores[0].Standing.Says {
		s.t.Errorf("KMS is told %q, and people %q", got, stores[0].Standing.Says)
	}
}
