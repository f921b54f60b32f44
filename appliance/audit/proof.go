package audit

import (
	"encoding/json"
	"holdfast/appliance/fault"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// proofFormat names the form of a proof.
const proofFormat = "holdfast-audit-proof/1"

const maxProof = 1 << 20

// proof shows that a record is in a log, to who has the log's key alone.
type proof struct {
	Format     string      `json:"format"`
	Record     string      `json:"record"` // the line
	Seq        int64       `json:"seq"`
	TreeSize   int64       `json:"tree_size"`
	Hashes     []tlog.Hash `json:"hashes"` // RFC 6962, section 2.1.1
	Checkpoint string      `json:"checkpoint"`
}

// Inclusion is what a proof shows.
type Inclusion struct {
	Record     *Record    `json:"record"`
	Checkpoint Checkpoint `json:"checkpoint"`
}

// InclusionProof makes a proof, in JSON, that record seq is in the log.
// [CheckInclusion] checks it, without the log.
func InclusionProof(dir string, seq int64) ([]byte, error) {
	signed, c, err := newestCheckpoint(dir)
	if err != nil {
		return nil, err
	}
	if seq < 0 || seq >= c.Size {
		return nil, fault.Errorf(fault.NotFound, "no checkpoint covers record %d; the newest covers %d records", seq, c.Size)
	}
	line, err := readRecord(dir, seq)
	if err != nil {
		return nil, err
	}
	tree, err := os.Open(filepath.Join(dir, TreeName))
	if err != nil {
		return nil, fault.Wrapf(fault.AuditTree, err, "the file of tree hashes cannot be read")
	}
	defer tree.Close()
	hashes, err := tlog.ProveRecord(c.Size, seq, TreeFile{tree})
	if err != nil {
		return nil, fault.Wrapf(fault.AuditTree, err, "the file of tree hashes cannot be read")
	}
	if err := tlog.CheckRecord(hashes, c.Size, c.Root, seq, tlog.RecordHash(line)); err != nil {
		return nil, fault.Wrapf(fault.AuditProof, err, "record %d cannot be proved: the log is damaged; run verify", seq)
	}
	return json.MarshalIndent(proof{Format: proofFormat, Record: string(line), Seq: seq, TreeSize: c.Size,
		Hashes: hashes, Checkpoint: string(signed)}, "", "  ")
}

// CheckInclusion checks a proof with the keys that may have signed the log, and
// gives the record that it is of.
func CheckInclusion(data []byte, keys note.Verifiers) (*Inclusion, error) {
	var p proof
	if len(data) > maxProof {
		return nil, fault.Errorf(fault.AuditProof, "a proof is not longer than %d bytes; this has %d", maxProof, len(data))
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, fault.Wrapf(fault.AuditProof, err, "the proof is not JSON of this form")
	}
	if p.Format != proofFormat {
		return nil, fault.Errorf(fault.AuditProof, "the proof is of the form %.40q; this version knows %q", p.Format, proofFormat)
	}
	c, err := OpenCheckpoint([]byte(p.Checkpoint), keys)
	if err != nil {
		return nil, err
	}
	r, err := ParseRecord([]byte(p.Record))
	if err != nil {
		return nil, err
	}
	if r.Seq != p.Seq || p.TreeSize != c.Size {
		return nil, fault.Errorf(fault.AuditProof, "the proof says record %d of %d, its parts say record %d of %d", p.Seq, p.TreeSize, r.Seq, c.Size)
	}
	if err := tlog.CheckRecord(p.Hashes, c.Size, c.Root, r.Seq, tlog.RecordHash([]byte(p.Record))); err != nil {
		return nil, fault.Wrapf(fault.AuditProof, err, "record %d is not in the log of the checkpoint, or was edited", p.Seq)
	}
	return &Inclusion{Record: r, Checkpoint: *c}, nil
}

// newestCheckpoint reads the last checkpoint of a log, without checking it.
func newestCheckpoint(dir string) ([]byte, *Checkpoint, error) {
	f, err := os.Open(filepath.Join(dir, CheckpointsName))
	if err != nil {
		return nil, nil, fault.Wrapf(fault.AuditIO, err, "the checkpoints cannot be read")
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, fault.Wrapf(fault.AuditIO, err, "the checkpoints cannot be read")
	}
	signed, _, err := LastNote(f, info.Size())
	if err != nil {
		return nil, nil, err
	}
	if signed == nil {
		return nil, nil, fault.Errorf(fault.NotFound, "the log has no checkpoint")
	}
	c, err := UnverifiedCheckpoint(signed)
	return signed, c, err
}

// readRecord finds the line of a record.
func readRecord(dir string, seq int64) ([]byte, error) {
	segments, err := ListSegments(dir)
	if err != nil {
		return nil, err
	}
	i := len(segments) - 1
	for i >= 0 && segments[i].First > seq {
		i--
	}
	if i < 0 {
		return nil, fault.Errorf(fault.NotFound, "record %d was removed by retention", seq)
	}
	f, err := os.Open(filepath.Join(dir, segments[i].Name()))
	if err != nil {
		return nil, fault.Wrapf(fault.AuditIO, err, "the segment %s cannot be read", segments[i].Name())
	}
	defer f.Close()
	in := NewLines(f)
	for n := segments[i].First; ; n++ {
		line, err := in.Next()
		if err == io.EOF || err == ErrTorn || err == ErrReserved {
			return nil, fault.Errorf(fault.NotFound, "the segment %s ends before record %d; run verify", segments[i].Name(), seq)
		}
		if err != nil {
			return nil, fault.Wrapf(fault.AuditIO, err, "the segment %s cannot be read", segments[i].Name())
		}
		if n == seq {
			return line[1:], nil
		}
	}
}
