package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"holdfast/appliance/fault"
)

// The operations of the records of the kind fleet. What they are about is in the record's
// after, whose member log is the ID of the other node's log.
const (
	NodeJoined  = "NodeJoined"
	NodeDrained = "NodeDrained"
	NodeResumed = "NodeResumed"
	NodeLeft    = "NodeLeft"
	// CountersignHead has a [Countersigned]; the log alone writes it.
	CountersignHead = "CountersignHead"
	// RefuseHead is of a head of a peer that was not countersigned: its error says why.
	RefuseHead = "RefuseHead"
)

// The beginnings of such records behind number and time.
const (
	fleetStart       = `,"kind":"fleet"`
	countersignStart = fleetStart + `,"operation":"` + CountersignHead + `","result":"allowed"`
)

// SignedHead is the newest checkpoint of a node's log, and the key that it is to be checked
// with. What the transport says of the sender is what vouches for the key.
type SignedHead struct {
	Checkpoint string `json:"checkpoint"` // a signed note
	Key        string `json:"key"`        // a verifier key in C2SP's form
}

// maxKey bounds a verifier key in C2SP's form.
const maxKey = 1 << 10

// Open checks the signature, and gives what it says of the log with that ID:
// fault.AuditCheckpointForged, fault.AuditLogID.
func (h *SignedHead) Open(logID string) (*Checkpoint, error) {
	if len(h.Key) > maxKey {
		return nil, fault.Errorf(fault.AuditCheckpointForged, "the key of a checkpoint is longer than %d bytes", maxKey)
	}
	key, err := ParseVerifierKey(h.Key)
	if err != nil {
		return nil, fault.Wrapf(fault.AuditCheckpointForged, err, "the key of a checkpoint cannot be read")
	}
	c, err := OpenCheckpoint([]byte(h.Checkpoint), note.VerifierList(key))
	if err != nil {
		return nil, err
	}
	if c.LogID != logID {
		return nil, fault.Errorf(fault.AuditLogID, "the checkpoint is of the log %s, and not of %s", c.LogID, logID)
	}
	return c, nil
}

// Countersigned is a head of a peer's log as a node has it on record. The countersignature
// stands by itself: who has the node's key needs nothing else of the record.
type Countersigned struct {
	LogID string    `json:"log"` // the peer's
	Size  int64     `json:"size"`
	Root  tlog.Hash `json:"root"`
	// Countersignature is a signed note of log, size and root.
	Countersignature string `json:"countersignature"`
	SignedHead
}

// countersignedPrefix begins what is countersigned, and no checkpoint begins so.
const countersignedPrefix = "holdfast-audit-countersignature/1\n"

func countersignedText(logID string, h Head) string {
	return fmt.Sprintf("%s%s\n%d\n%s\n", countersignedPrefix, logID, h.Size, h.Root.String())
}

// Countersign has a node's signer sign that a peer's log has a head.
func Countersign(c *Checkpoint, head *SignedHead, s Signer) (*Countersigned, error) {
	signed, err := note.Sign(&note.Note{Text: countersignedText(c.LogID, Head{c.Size, c.Root})}, s)
	if err != nil {
		return nil, fault.Wrapf(fault.AuditSigner, err, "the head of the log %s could not be countersigned", c.LogID)
	}
	return &Countersigned{LogID: c.LogID, Size: c.Size, Root: c.Root, Countersignature: string(signed), SignedHead: *head}, nil
}

// OpenCountersignature checks a countersignature, and says of which log and head it is:
// fault.AuditCheckpointForged.
func OpenCountersignature(signed []byte, keys note.Verifiers) (logID string, h Head, err error) {
	if len(signed) > MaxNote {
		return "", h, fault.Errorf(fault.AuditCheckpointForged, "a countersignature is longer than %d bytes", MaxNote)
	}
	n, err := note.Open(signed, keys)
	if err != nil {
		return "", h, fault.Wrapf(fault.AuditCheckpointForged, err, "a countersignature is not signed by a known key")
	}
	text, _ := strings.CutPrefix(n.Text, countersignedPrefix)
	if l := strings.Split(text, "\n"); len(l) == 4 {
		var notSize, notRoot error
		h.Size, notSize = strconv.ParseInt(l[1], 10, 64)
		h.Root, notRoot = tlog.ParseHash(l[2])
		if notSize == nil && notRoot == nil && ValidLogID(l[0]) && h.Size >= 0 && h.Size <= MaxSeq && countersignedText(l[0], h) == n.Text {
			return l[0], h, nil
		}
	}
	return "", Head{}, fault.Errorf(fault.AuditCheckpointForged, "a countersignature is not of the form that this version writes")
}

// CountersignedOf gives what a record says that a node has countersigned; nil if it is
// another record. It checks no signature.
func CountersignedOf(r *Record) *Countersigned {
	c := &Countersigned{}
	if r.Kind != KindFleet || r.Operation != CountersignHead || json.Unmarshal(r.After, c) != nil {
		return nil
	}
	return c
}

// NamedLog gives the ID of the log that a record of the kind fleet is about; "" if none.
func NamedLog(r *Record) string {
	var about struct {
		LogID string `json:"log"`
	}
	if r.Kind != KindFleet || json.Unmarshal(r.After, &about) != nil || !ValidLogID(about.LogID) {
		return ""
	}
	return about.LogID
}

// CountersignedHead is a head that a log must contain, since another node has countersigned
// it.
type CountersignedHead struct {
	Size int64     `json:"size" jsonschema:"How many records the head covers."`
	Root tlog.Hash `json:"root" jsonschema:"The root of the Merkle tree of the records, in Base64."`
	// By is the ID of the other node's log, Seq the record in it, and At its time.
	By  string    `json:"by" jsonschema:"The ID of the log of the node that countersigned the head."`
	Seq int64     `json:"seq" jsonschema:"The number of the record, in the log of that node, that has the head."`
	At  time.Time `json:"at" jsonschema:"When the head was countersigned."`
}

func (h *CountersignedHead) String() string {
	return fmt.Sprintf("the node %s countersigned %d records of it at %s, in its record %d", h.By, h.Size, h.At.Format(time.RFC3339), h.Seq)
}

// isFleet says whether a line, from behind number and time, is of the kind fleet.
func isFleet(rest []byte) bool { return bytes.HasPrefix(rest, []byte(fleetStart+",")) }
