package appliance_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/audit"
	"holdfast/appliance/audit/auditlog"
	"holdfast/appliance/audit/recorder"
	"holdfast/appliance/fault"
)

// logged is an appliance without a TPM whose audit log is a real one.
type logged struct {
	*anchored
	log  *recorder.Recorder
	keys []note.Verifier
}

func newLogged(t *testing.T) *logged {
	l := &logged{anchored: &anchored{T: t, dir: t.TempDir(), token: appliancetest.NewMemory()}}
	l.start("")
	return l
}

func (l *logged) auditDir() string { return filepath.Join(l.dir, "audit") }

// open opens the log, with a key that lives as long as the process.
func (l *logged) open() {
	l.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(l.T)
	l.keys = append(l.keys, must(audit.NewECDSAVerifier(recorder.KeyName, &key.PublicKey))(l.T))
	l.log = recorder.New(recorder.Options{Dir: l.auditDir(), LogID: func() (string, error) { return "test", nil }, Log: slog.New(slog.DiscardHandler), Limits: auditlog.Options{Unproven: true}})
	if err := l.log.Open(key); err != nil {
		l.Fatal(err)
	}
	l.Cleanup(l.log.Close)
}

func (l *logged) start(held fault.Code) {
	l.Helper()
	l.open()
	l.Bed = appliancetest.Start(l.T, appliancetest.Options{Token: l.token, Dir: l.dir, MayHold: true, Appliance: appliance.Options{
		HeadAnchors: []appliance.HeadAnchor{l.log}, AuditLog: l.log}})
	if got := fault.CodeOf(l.Bed.Held); got != held {
		l.Fatalf("the state is held with %q, want %q: %v", got, held, l.Bed.Held)
	}
}

// stop stops it, the log after the state as the daemon does.
func (l *logged) stop() {
	l.Stop()
	l.log.Close()
}

// verify holds the log against all keys that have signed it.
func (l *logged) verify() *audit.Report {
	l.Helper()
	return must(audit.Verify(l.auditDir(), note.VerifierList(l.keys...), audit.VerifyOptions{}))(l.T)
}

// folder keeps the log's folder, and gives a function that puts it back.
func (l *logged) folder() (putBack func()) {
	l.Helper()
	kept := filepath.Join(l.TempDir(), "audit")
	if err := os.CopyFS(kept, os.DirFS(l.auditDir())); err != nil {
		l.Fatal(err)
	}
	return func() {
		if err := errors.Join(os.RemoveAll(l.auditDir()), os.CopyFS(l.auditDir(), os.DirFS(kept))); err != nil {
			l.Fatal(err)
		}
	}
}

// TestDatabaseBehindItsLog: on a machine without a TPM a database that was put back alone is
// found by the head in the audit log, and the log put back alone by the head in the database.
// The log is whole, and its states go on, through a start, an accepted state and a kill.
func TestDatabaseBehindItsLog(t *testing.T) {
	l := newLogged(t)
	l.add("first")
	before := l.copy()
	logBefore := l.folder()
	l.add("second")
	must(l.log.Checkpoint())(t)
	status := must(l.Appliance.VerifyState(t.Context()))(t)
	if len(status.Anchors) != 1 || !status.Anchors[0].Agrees || status.Anchors[0].Name != "audit log" || status.Anchors[0].Head.Digest != status.Head.Digest || status.Anchors[0].Since.IsZero() {
		t.Errorf("the anchors are %+v, and the head %+v", status.Anchors, status.Head)
	}
	if newest := l.verify().Newest.State; newest.Digest != status.Head.Digest || newest.Sequence != status.Head.Sequence {
		t.Errorf("the log names %+v, and the head is %+v", newest, status.Head)
	}
	present, logPresent := l.copy(), l.folder()
	l.stop()

	l.putBack(before)
	l.start(fault.StateRolledBack)
	if newest := l.verify().Newest.State; newest.Sequence != status.Head.Sequence {
		t.Errorf("a state that is held is signed: %+v", newest)
	}
	l.stop()

	l.putBack(present)
	logPresent()
	l.start("") // as when the machine was killed
	l.stop()

	l.putBack(before)
	l.start(fault.StateRolledBack)
	must(l.Appliance.AcceptState(t.Context(), "a test", "it is meant"))(t)
	l.add("third")
	l.stop()
	l.start("")
	l.stop()
	if newest := l.verify().Newest.State; newest.Sequence <= status.Head.Sequence {
		t.Errorf("the accepted state is %+v", newest)
	}
	logBefore()
	l.putBack(before)
	l.start("") // both of one moment: no anchor of this machine is outside of its disk
}

// TestLogBehindItsDatabase: the log's folder put back alone.
func TestLogBehindItsDatabase(t *testing.T) {
	l := newLogged(t)
	before := l.folder()
	for i := range 3 {
		if err := l.log.Record(t.Context(), &audit.Record{Kind: audit.KindAdmin, Operation: string(rune('a' + i))}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Appliance.KeepAuditHead(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.stop()
	before()
	l.locked(fault.AuditRewritten)
}

// locked starts it, and it stays locked with this code.
func (l *logged) locked(code fault.Code) {
	l.Helper()
	l.open()
	l.Bed = appliancetest.Start(l.T, appliancetest.Options{Token: l.token, Dir: l.dir, Locked: code, Appliance: appliance.Options{
		HeadAnchors: []appliance.HeadAnchor{l.log}, AuditLog: l.log}})
}
