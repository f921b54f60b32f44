// Package recorder decides what is written to the audit log: requests, steps of
// boots and what administrators do. It queues the steps that come before the log is
// open, says whether anything can be recorded, and gives the log to those who read
// it.
//
// Use it once per process: what reads the log and what writes to it share the log.
// Packages audit and auditlog keep the log itself and know nothing of the appliance.
package recorder

import (
	"context"
	"crypto"
	"log/slog"
	"sync"

	"golang.org/x/mod/sumdb/note"

	"holdfast/appliance/audit"
	"holdfast/appliance/audit/auditlog"
	"holdfast/appliance/fault"
)

// KeyName names the key that signs checkpoints.
const KeyName = "holdfast-audit"

// Options are the settings of a [Recorder].
type Options struct {
	// Dir is the folder of the log.
	Dir string
	// LogID gives the ID of the log, which never changes.
	LogID func() (string, error)
	Log   *slog.Logger
	// Limits are the log's: RetainAge, RetainBytes, ReserveBytes and WarnBytes.
	Limits auditlog.Options
}

// Recorder records what happens. Its methods may be called by many goroutines.
type Recorder struct {
	o Options

	mu    sync.Mutex
	open  *auditlog.Log
	id    string
	keys  note.Verifiers  // that sign the log
	key   string          // that signs it, in C2SP's form
	early []*audit.Record // of the boot, from before the log is open

	peers      peers
	membership sync.Mutex // held while it is compared with what is on record
}

// New gives a recorder whose log is not open yet.
func New(o Options) *Recorder { return &Recorder{o: o} }

// Open opens the log, its checkpoints signed by the key, and writes the steps that
// came before. It does nothing if the log is open: a boot may try a state again.
func (r *Recorder) Open(key crypto.Signer) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open != nil {
		return nil
	}
	signer, err := audit.NewECDSASigner(KeyName, key)
	if err != nil {
		return err
	}
	verifier, err := audit.ParseVerifierKey(signer.VerifierKey())
	if err != nil {
		return err
	}
	id, err := r.o.LogID()
	if err != nil {
		return err
	}
	o := r.o.Limits
	o.LogID, o.Signer, o.Log = id, signer, r.o.Log
	log, err := auditlog.Open(r.o.Dir, o)
	if err != nil {
		return err
	}
	r.open, r.id, r.keys, r.key = log, id, note.VerifierList(verifier), signer.VerifierKey()
	for _, record := range r.early {
		if err := log.Append(context.Background(), record); err != nil {
			return err
		}
	}
	r.early = nil
	return nil
}

// current gives the log; nil before it is open.
func (r *Recorder) current() *auditlog.Log {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open
}

// Close closes the log.
func (r *Recorder) Close() {
	if l := r.current(); l != nil {
		if err := l.Close(); err != nil {
			r.o.Log.Error("the audit log did not close cleanly", "error", err)
		}
	}
}

// errNotOpen is for what would have to be recorded while nothing can be.
var errNotOpen = fault.Errorf(fault.Locked, "the audit log is not open")

// Ready says why nothing can be recorded; nil if something can.
func (r *Recorder) Ready() error {
	l := r.current()
	if l == nil {
		return errNotOpen
	}
	switch s := l.Status(); {
	case s.Broken != "":
		return fault.Errorf(fault.AuditIO, "%s", s.Broken)
	case s.Level == audit.LevelFull:
		return fault.Errorf(fault.AuditNoSpace, "the disk of the audit log is full, and nothing is done that cannot be recorded: enlarge the state volume, or keep less of the log with audit.retain_age")
	}
	return l.Unsigned()
}

// ReadyUrgent says why not even what is urgent can be recorded ([Recorder.RecordUrgent]);
// nil if it can.
func (r *Recorder) ReadyUrgent() error {
	l := r.current()
	if l == nil {
		return errNotOpen
	}
	if s := l.Status(); s.Broken != "" {
		return fault.Errorf(fault.AuditIO, "%s", s.Broken)
	}
	return nil
}

// RecordUrgent writes a record durably, also from the reserve of the disk and while the
// TPM does not sign: for what takes something out of service or saves the state.
func (r *Recorder) RecordUrgent(ctx context.Context, record *audit.Record) error {
	l := r.current()
	if l == nil {
		return errNotOpen
	}
	return l.AppendUrgent(ctx, record)
}

// Record writes a record durably.
func (r *Recorder) Record(ctx context.Context, record *audit.Record) error {
	l := r.current()
	if l == nil {
		return errNotOpen
	}
	return l.Append(ctx, record)
}
