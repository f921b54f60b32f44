package daemon_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/web/operation"
	"holdfast/xks/xkstest"
)

// folderOf gives a function that puts a folder of an appliance that does not run back, with
// all that is in it.
func (s *site) folderOf(dir string) (putBack func()) {
	s.t.Helper()
	kept := filepath.Join(s.t.TempDir(), "kept")
	if err := os.CopyFS(kept, os.DirFS(dir)); err != nil {
		s.t.Fatal(err)
	}
	return func() {
		s.t.Helper()
		entries, err := os.ReadDir(dir)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, e := range entries {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				s.t.Fatal(err)
			}
		}
		if err := os.CopyFS(dir, os.DirFS(kept)); err != nil {
			s.t.Fatal(err)
		}
		if err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			return os.Chmod(path, 0o600)
		}); err != nil {
			s.t.Fatal(err)
		}
	}
}

// TestRolledBack: a database or a whole volume of before is not served, since the TPM has
// counted the changes that it lacks. A person can accept it, on record.
func TestRolledBack(t *testing.T) {
	for name, keep := range map[string]func(s *site) func(){
		"the database": (*site).copyOf,
		"the volume":   func(s *site) func() { return s.folderOf(s.cfg.State.Dir) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			r := s.start()
			kms := r.newKeyStore()
			r.newKey("k", appliance.CustodyCached, "")
			r.stop()
			putBack := keep(s)
			r = s.start()
			r.ok("POST", "keystores/p/keys/k/disable", nil, nil)
			r.stop()
			putBack()
			before := len(s.log.String())
			r = s.begin()
			s.logged(before, `state=locked .*code=E_STATE_ROLLED_BACK`)
			kms = r.kms(kms.AccessKeyID, kms.SecretAccessKey)
			if a := kms.Call("/keys/k/encrypt", xkstest.EncryptBody("x")); a.Status == 200 {
				t.Error("a state of before is served")
			}
			var state appliance.StateStatus
			r.ok("GET", "state", nil, &state)
			if state.HeldCode != "E_STATE_ROLLED_BACK" {
				t.Errorf("the state is %+v", state)
			}
			var accepted operation.StateAcceptance
			r.ok("POST", "state/accept", operation.AcceptedState{Reason: "the test has put it back"}, &accepted)
			if !accepted.Accepted {
				t.Errorf("%+v", accepted)
			}
			s.logged(before, `state=serving`)
			r.stop()
			s.start() // the anchor agrees again
		})
	}
}

// TestAnchorsAgree: the TPM's counter and the audit log agree with the state, over a stop; and
// the log names the head of the newest change that is anchored, signed by the key of the
// evidence. The present head may come after it: keeping the log's own head is not anchored.
func TestAnchorsAgree(t *testing.T) {
	s := newSite(t)
	r := s.start()
	key := r.auditKey()
	r.newKeyStore()
	before := uint64(0)
	for range 2 {
		var state appliance.StateStatus
		eventually(t, func() error { // a checkpoint is signed each second
			r.ok("GET", "state", nil, &state)
			for _, a := range state.Anchors {
				if !a.Agrees || a.Since.IsZero() || a.Count == 0 && (a.Head.Sequence <= before || a.Head.Sequence > state.Head.Sequence) {
					return fmt.Errorf("%+v, and the head is %+v", a, state.Head)
				}
			}
			return nil
		})
		if len(state.Anchors) != 2 || state.Anchors[0].Name != state.Anchor || state.Anchors[1].Name != "audit log" {
			t.Errorf("the anchors are %+v", state.Anchors)
		}
		report, err := audit.Verify(s.auditDir(), key, audit.VerifyOptions{})
		if err != nil || report.Newest.State.Digest != state.Anchors[1].Head.Digest {
			t.Errorf("%v; the log names %+v, and the anchor says %+v", err, report.Newest.State, state.Anchors[1].Head)
		}
		before = state.Head.Sequence // the opening after it is anchored
		r.stop()
		r = s.start()
	}
}

// TestAuditFolderPutBack: an audit folder of before is not served, singly; with the
// database or the whole volume it is held by the TPM's count.
func TestAuditFolderPutBack(t *testing.T) {
	for name, c := range map[string]struct {
		keep func(s *site) func()
		code string
	}{
		"the audit folder": {func(s *site) func() { return s.folderOf(filepath.Join(s.cfg.State.Dir, "audit")) }, "E_AUDIT_REWRITTEN"},
		"the audit folder and the database": {func(s *site) func() {
			audit, database := s.folderOf(filepath.Join(s.cfg.State.Dir, "audit")), s.copyOf()
			return func() { audit(); database() }
		}, "E_STATE_ROLLED_BACK"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			r := s.start()
			kms := r.newKeyStore()
			r.newKey("k", appliance.CustodyCached, "")
			r.stop()
			putBack := c.keep(s)
			r = s.start()
			r.ok("POST", "keystores/p/keys/k/disable", nil, nil)
			r.stop()
			putBack()
			before := len(s.log.String())
			r = s.begin()
			s.logged(before, `state=locked .*code=`+c.code)
			kms = r.kms(kms.AccessKeyID, kms.SecretAccessKey)
			if a := kms.Call("/keys/k/encrypt", xkstest.EncryptBody("x")); a.Status == 200 {
				t.Error("it serves")
			}
		})
	}
}
