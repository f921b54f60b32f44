package audit

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"holdfast/appliance/fault"
)

// Verdict is what comes of a verification.
type Verdict string

// The verdicts.
const (
	VerdictWhole      Verdict = "whole"
	VerdictBroken     Verdict = "broken"
	VerdictIncomplete Verdict = "incomplete" // nothing is wrong that was looked at, and not all could be
)

// FleetReport is what [VerifyFleet] has seen.
type FleetReport struct {
	Verdict Verdict `json:"verdict"`
	// Logs are in the order of the folders.
	Logs []LogReport `json:"logs"`
	// Missing are logs that one of these names, and that are not among them.
	Missing []MissingLog `json:"missing,omitempty"`
	Notes   []string     `json:"notes,omitempty"`
}

// LogReport is the report of one of several logs.
type LogReport struct {
	Dir string `json:"dir"`
	Report
	// Error says why the log could not be read; empty if it could.
	Error string `json:"error,omitempty"`
}

// MissingLog is a log that another names.
type MissingLog struct {
	LogID string `json:"log_id"`
	// By is the ID of the log that names it, Seq the first record that does, At its time.
	By  string    `json:"by"`
	Seq int64     `json:"seq"`
	At  time.Time `json:"at"`
}

func (m *MissingLog) String() string {
	return fmt.Sprintf("the log %s, which the log %s names in its record %d of %s; give its folder too", m.LogID, m.By, m.Seq, m.At.Format(time.RFC3339))
}

// Verdict is what comes of the log, by itself.
func (r *Report) Verdict() Verdict {
	if r.Broken != nil {
		return VerdictBroken
	}
	return VerdictWhole
}

// FleetOptions are what is known of the logs of several nodes besides their keys.
type FleetOptions struct {
	// LogID is the ID that the log must have, if there is one folder.
	LogID string
	// Checkpoints are signed checkpoints that were kept elsewhere, of any of the logs.
	Checkpoints [][]byte
	// Until leaves out countersignatures after it; none if it is zero. Copies of logs that
	// grow meanwhile are not of one moment: give the time when the first was begun.
	Until time.Time
	// Progress, if given, is called from time to time with how many records of all logs were
	// verified.
	Progress func(records int64)
}

// VerifyFleet verifies the logs of several nodes, each as [Verify] does, and against what
// the others have countersigned of it. Its error says that the folders cannot be
// verified together: one log is there twice, or a checkpoint is of none of them.
func VerifyFleet(dirs []string, keys note.Verifiers, o FleetOptions) (*FleetReport, error) {
	if len(dirs) != 1 && o.LogID != "" {
		return nil, fault.Errorf(fault.Invalid, "the ID of a log is asked of one folder, and %d are given", len(dirs))
	}
	f := &fleet{keys: keys, options: o}
	for _, dir := range dirs {
		f.logs = append(f.logs, f.collect(dir))
	}
	if err := f.checkTwice(); err != nil {
		return nil, err
	}
	kept, err := f.kept()
	if err != nil {
		return nil, err
	}
	for _, l := range f.logs {
		f.verify(l, kept[l.id])
	}
	return f.finish(), nil
}

// LogIDOf gives the ID of the log in a folder, as its newest checkpoint says, unverified.
func LogIDOf(dir string) (string, error) {
	_, c, err := newestCheckpoint(dir)
	if err != nil {
		return "", err
	}
	return c.LogID, nil
}

// MissingLogs says which logs the logs in the folders name that are not among them.
func MissingLogs(dirs []string) ([]MissingLog, error) {
	f := &fleet{}
	for _, dir := range dirs {
		l := f.collect(dir)
		if l.err != nil {
			return nil, l.err
		}
		f.logs = append(f.logs, l)
	}
	return f.missing(), nil
}

// fleet is one run of VerifyFleet.
type fleet struct {
	keys    note.Verifiers // nil if nothing is verified
	options FleetOptions
	logs    []*fleetLog
	report  FleetReport
	// verified is how many records of all logs were verified, as far as was told.
	verified int64
}

// fleetLog is one log.
type fleetLog struct {
	dir, id string
	newest  *Checkpoint
	err     error // it could not be read
	named   map[string]MissingLog
	heads   map[string][]CountersignedHead // that it has countersigned, by log
	broken  *Finding                       // a countersignature in it
}

// collect reads what a log says of others. It looks at no tree and no checkpoint but the
// last, and passes over what is no record: that is for Verify.
func (f *fleet) collect(dir string) *fleetLog {
	l := &fleetLog{dir: dir, named: map[string]MissingLog{}, heads: map[string][]CountersignedHead{}}
	if _, l.newest, l.err = newestCheckpoint(dir); l.err != nil {
		return l
	}
	l.id = l.newest.LogID
	var segments []Segment
	if segments, l.err = ListSegments(dir); l.err != nil {
		return l
	}
	for _, s := range segments {
		if l.err = f.collectSegment(l, s); l.err != nil {
			return l
		}
	}
	return l
}

func (f *fleet) collectSegment(l *fleetLog, s Segment) error {
	file, err := os.Open(filepath.Join(l.dir, s.Name()))
	if err != nil {
		return fault.Wrapf(fault.AuditIO, err, "the segment %s cannot be read", s.Name())
	}
	defer file.Close()
	in := NewLines(file)
	for n := int64(1); ; n++ {
		line, err := in.Next()
		switch {
		case err == io.EOF || err == ErrTorn || err == ErrReserved || err == errTooLong: // Verify tells what is wrong
			return nil
		case err != nil:
			return fault.Wrapf(fault.AuditIO, err, "the segment %s cannot be read", s.Name())
		}
		at, err := ParseStart(line[1:])
		if err != nil || !isFleet(at.Rest) {
			continue
		}
		if r, err := ParseRecord(line[1:]); err == nil {
			f.collectRecord(l, r, Finding{Segment: s.Name(), Line: n, Seq: r.Seq}, bytes.HasPrefix(at.Rest, []byte(countersignStart)))
		}
	}
}

// collectRecord takes what a record of the kind fleet says of another log.
func (f *fleet) collectRecord(l *fleetLog, r *Record, at Finding, countersigns bool) {
	id := NamedLog(r)
	if id == "" || id == l.id {
		return
	}
	if _, ok := l.named[id]; !ok {
		l.named[id] = MissingLog{LogID: id, By: l.id, Seq: r.Seq, At: r.Time}
	}
	if !countersigns || f.keys == nil || !f.options.Until.IsZero() && r.Time.After(f.options.Until) {
		return
	}
	c := CountersignedOf(r)
	of, h, err := OpenCountersignature([]byte(c.Countersignature), f.keys)
	if err == nil && (of != id || h.Size != c.Size || h.Root != c.Root) {
		err = fault.Errorf(fault.AuditCheckpointForged, "the countersignature is of another head than the record says")
	}
	if err != nil {
		if l.broken == nil {
			at.Code, at.Message = fault.AuditCheckpointForged, fmt.Sprintf("what the node %s countersigned of the log %s at %s is not so: %v", l.id, id, r.Time.Format(time.RFC3339), err)
			l.broken = &at
		}
		return
	}
	l.heads[id] = append(l.heads[id], CountersignedHead{Size: h.Size, Root: h.Root, By: l.id, Seq: r.Seq, At: r.Time})
}

// checkTwice refuses two folders with one log. Two that are not consistent are for the
// verdict.
func (f *fleet) checkTwice() error {
	for i, b := range f.logs {
		for _, a := range f.logs[:i] {
			if sameFolder(a.dir, b.dir) {
				return fault.Errorf(fault.Invalid, "%s and %s are the same folder; give it once", a.dir, b.dir)
			}
			if a.err != nil || b.err != nil || a.id != b.id {
				continue
			}
			older, newer := a, b
			if a.newest.Size > b.newest.Size {
				older, newer = b, a
			}
			_, err := ProveHead(newer.dir, Head{older.newest.Size, older.newest.Root})
			switch {
			case fault.CodeOf(err) == fault.AuditRewritten:
				f.report.Notes = append(f.report.Notes, fmt.Sprintf("%s and %s both have the log %s, and are not consistent: one of them was rewritten or cut.", a.dir, b.dir, a.id))
				f.report.Verdict = VerdictBroken
			case err != nil: // Verify says what is wrong with it
				f.report.Notes = append(f.report.Notes, fmt.Sprintf("%s and %s both have the log %s, and one of them is damaged.", a.dir, b.dir, a.id))
			case older.newest.Size == newer.newest.Size:
				return fault.Errorf(fault.Invalid, "%s and %s have the same log, %s; give one of them", a.dir, b.dir, a.id)
			default:
				return fault.Errorf(fault.Invalid, "%s has an older copy of the log in %s, %s; give only %s", older.dir, newer.dir, a.id, newer.dir)
			}
		}
	}
	return nil
}

func sameFolder(a, b string) bool {
	one, err := os.Stat(a)
	other, err2 := os.Stat(b)
	return errors.Join(err, err2) == nil && os.SameFile(one, other)
}

// kept gives the checkpoints that were kept elsewhere, by log.
func (f *fleet) kept() (map[string][]byte, error) {
	of := map[string][]byte{}
	for _, signed := range f.options.Checkpoints {
		if len(f.logs) == 1 && len(f.options.Checkpoints) == 1 { // Verify tells whether it is of this log
			of[f.logs[0].id] = signed
			continue
		}
		c, err := OpenCheckpoint(signed, f.keys)
		if err != nil {
			return nil, fault.Wrapf(fault.Invalid, err, "a checkpoint that was kept elsewhere is not good")
		}
		if !slices.ContainsFunc(f.logs, func(l *fleetLog) bool { return l.id == c.LogID }) {
			return nil, fault.Errorf(fault.Invalid, "a checkpoint that was kept elsewhere is of the log %s, which is in none of the folders; give its folder too", c.LogID)
		}
		if have := of[c.LogID]; have != nil {
			return nil, fault.Errorf(fault.Invalid, "two checkpoints that were kept elsewhere are of the log %s; give the newer", c.LogID)
		}
		of[c.LogID] = signed
	}
	return of, nil
}

// verify verifies one log.
func (f *fleet) verify(l *fleetLog, checkpoint []byte) {
	var heads []CountersignedHead
	for _, by := range f.logs {
		heads = append(heads, by.heads[l.id]...)
	}
	before := f.verified
	o := VerifyOptions{LogID: cmp.Or(f.options.LogID, l.id), Checkpoint: checkpoint, Countersigned: heads, Progress: func(records int64) {
		if f.verified = before + records; f.options.Progress != nil {
			f.options.Progress(f.verified)
		}
	}}
	report, err := Verify(l.dir, f.keys, o)
	if report.Broken == nil && l.broken != nil {
		report.Broken = l.broken
	}
	r := LogReport{Dir: l.dir, Report: *report}
	switch {
	case report.Broken != nil:
		f.report.Verdict = VerdictBroken
	case err != nil:
		r.Error = err.Error()
	case l.err != nil:
		r.Error = l.err.Error()
	}
	f.report.Logs = append(f.report.Logs, r)
}

// missing gives the logs that are named and not there, by ID.
func (f *fleet) missing() (all []MissingLog) {
	of := map[string]MissingLog{}
	for _, l := range f.logs {
		for id, named := range l.named {
			if _, ok := of[id]; !ok {
				of[id] = named
			}
		}
	}
	for _, l := range f.logs {
		delete(of, l.id)
	}
	for _, id := range slices.Sorted(maps.Keys(of)) {
		all = append(all, of[id])
	}
	return all
}

// finish completes the report.
func (f *fleet) finish() *FleetReport {
	r := &f.report
	r.Missing = f.missing()
	signed := map[string][]string{}
	for i := range r.Logs {
		l := &r.Logs[i]
		for _, key := range l.Keys {
			if !slices.Contains(signed[key], l.LogID) {
				signed[key] = append(signed[key], l.LogID)
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(signed)) {
		if ids := signed[key]; len(ids) > 1 {
			r.Notes = append(r.Notes, fmt.Sprintf("One key, %s, signs the logs %s: they are logs of one machine, or one of them was made with a key that is not its own.", key, strings.Join(ids, " and ")))
		}
	}
	switch {
	case r.Verdict != "":
	case len(r.Missing) > 0, slices.ContainsFunc(r.Logs, func(l LogReport) bool { return l.Error != "" }):
		r.Verdict = VerdictIncomplete
	default:
		r.Verdict = VerdictWhole
	}
	return r
}
