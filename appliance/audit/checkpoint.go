package audit

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"holdfast/appliance/fault"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// originPrefix and the log's ID are the first line of each checkpoint.
const originPrefix = "holdfast-audit/"

var logID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// ValidLogID says whether a log may have that ID: 1 to 64 letters, digits, points,
// hyphens and underscores.
func ValidLogID(id string) bool { return logID.MatchString(id) }

// Checkpoint is what a signed note says of a log: C2SP's tlog-checkpoint, with
// one line or two of ours after the root:
//
//	holdfast-audit/<log ID>
//	<number of records>
//	<root hash, base64>
//	holdfast <number of the checkpoint> <time>
//	state <sequence> <digest, hexadecimal> <time>
//
// The last is the head of the appliance's state, once the log was told one.
type Checkpoint struct {
	LogID string    `json:"log_id" jsonschema:"The ID of the audit log."`
	Size  int64     `json:"size" jsonschema:"How many records the checkpoint covers."` // it covers the records 0 to Size-1
	Root  tlog.Hash `json:"root" jsonschema:"The root of the Merkle tree of the records (RFC 6962), in Base64."`
	// Number counts the log's checkpoints from 0, so that a removed one leaves
	// a gap.
	Number int64     `json:"number" jsonschema:"The number of the checkpoint in its log, from 0."`
	Time   time.Time `json:"time" jsonschema:"When the checkpoint was signed."` // when it was signed
	// State is the newest head of the appliance's state that the log was told; zero if
	// none.
	State StateHead `json:"state,omitzero" jsonschema:"The newest head of the appliance's state that the log was told; absent if none."`
}

// StateHead names the state of all rows of the appliance at one moment.
type StateHead struct {
	Sequence uint64    `json:"sequence" jsonschema:"The number of the last change of the state."`               // rises with each change, and is never 0
	Digest   string    `json:"digest" jsonschema:"The SHA-256 of the state and all before it, in hexadecimal."` // SHA-256, hexadecimal
	At       time.Time `json:"at" jsonschema:"When the change was made."`
}

// maxSequence bounds the number of a state: a database has it as 64 bits with a sign.
const maxSequence = 1 << 62

func (h *StateHead) line() string {
	if *h == (StateHead{}) {
		return ""
	}
	return fmt.Sprintf("state %d %s %s\n", h.Sequence, h.Digest, appendTime(nil, h.At))
}

// parseStateHead reads the words of a line.
func parseStateHead(words []string) (h StateHead, err error) {
	if len(words) != 4 || words[0] != "state" {
		return h, errors.New("it is not of a state")
	}
	digest, bad := hex.DecodeString(words[2])
	if bad != nil || len(digest) != tlog.HashSize || hex.EncodeToString(digest) != words[2] {
		return h, errors.New("it has no digest")
	}
	h.Digest = words[2]
	if h.Sequence, err = strconv.ParseUint(words[1], 10, 64); err != nil || h.Sequence == 0 || h.Sequence > maxSequence {
		return h, errors.New("it has no number")
	}
	h.At, err = ParseTime([]byte(words[3]))
	return h, err
}

// before says why a checkpoint with the state h cannot be followed by one with the state
// next; "" if it can. People accept an earlier state only as one that comes after.
func (h *StateHead) before(next *StateHead) string {
	switch {
	case *h == StateHead{}, *h == *next:
		return ""
	case *next == StateHead{}:
		return fmt.Sprintf("names no state, and one before it the number %d", h.Sequence)
	case next.Sequence < h.Sequence:
		return fmt.Sprintf("names the state number %d, and one before it the number %d: an earlier state was used", next.Sequence, h.Sequence)
	case next.Sequence == h.Sequence:
		return fmt.Sprintf("names another state of the number %d than one before it", h.Sequence)
	}
	return ""
}

// MaxNote bounds what is read as one checkpoint.
const MaxNote = 16 << 10

func (c *Checkpoint) text() string {
	return fmt.Sprintf("%s%s\n%d\n%s\nholdfast %d %s\n%s", originPrefix, c.LogID, c.Size,
		base64.StdEncoding.EncodeToString(c.Root[:]), c.Number, appendTime(nil, c.Time), c.State.line())
}

// parseCheckpoint reads the text of a checkpoint. It must be as text makes it.
func parseCheckpoint(text string) (*Checkpoint, error) {
	malformed := fault.Errorf(fault.AuditCheckpointForged, "a checkpoint is not of the form that this version writes")
	l := strings.Split(text, "\n")
	if len(text) > MaxNote || len(l) < 5 || len(l) > 6 || l[len(l)-1] != "" {
		return nil, malformed
	}
	id, ok := strings.CutPrefix(l[0], originPrefix)
	if !ok || !logID.MatchString(id) {
		return nil, malformed
	}
	own := strings.Split(l[3], " ")
	if len(own) != 3 {
		return nil, malformed
	}
	c := &Checkpoint{LogID: id}
	var errs [5]error
	c.Size, errs[0] = strconv.ParseInt(l[1], 10, 64)
	c.Root, errs[1] = tlog.ParseHash(l[2])
	c.Number, errs[2] = strconv.ParseInt(own[1], 10, 64)
	c.Time, errs[3] = ParseTime([]byte(own[2]))
	if len(l) == 6 {
		c.State, errs[4] = parseStateHead(strings.Split(l[4], " "))
	}
	if errors.Join(errs[:]...) != nil || c.Size < 0 || c.Size > MaxSeq || c.Number < 0 || c.text() != text {
		return nil, malformed
	}
	return c, nil
}

// OpenCheckpoint checks the signature of a checkpoint, and gives what it says.
func OpenCheckpoint(signed []byte, keys note.Verifiers) (*Checkpoint, error) {
	c, _, err := openCheckpoint(signed, keys)
	return c, err
}

// openCheckpoint gives the key as well, as its name and hash.
func openCheckpoint(signed []byte, keys note.Verifiers) (c *Checkpoint, key string, err error) {
	if len(signed) > MaxNote {
		return nil, "", fault.Errorf(fault.AuditCheckpointForged, "a checkpoint is longer than %d bytes", MaxNote)
	}
	n, err := note.Open(signed, keys)
	if err != nil {
		return nil, "", fault.Wrapf(fault.AuditCheckpointForged, err, "a checkpoint is not signed by a known key")
	}
	// Base64 has bits that mean nothing. They are zero, so that a checkpoint has
	// one form only.
	for _, sig := range n.Sigs {
		if _, err := base64.StdEncoding.Strict().DecodeString(sig.Base64); err != nil {
			return nil, "", fault.Wrapf(fault.AuditCheckpointForged, err, "the signature of a checkpoint was edited")
		}
	}
	c, err = parseCheckpoint(n.Text)
	return c, fmt.Sprintf("%s+%08x", n.Sigs[0].Name, n.Sigs[0].Hash), err
}

// UnverifiedCheckpoint gives what a checkpoint says, whoever signed it.
func UnverifiedCheckpoint(signed []byte) (*Checkpoint, error) {
	text, _, ok := bytes.Cut(signed, []byte("\n\n"))
	if !ok {
		return nil, fault.Errorf(fault.AuditCheckpointForged, "a checkpoint has no signature")
	}
	return parseCheckpoint(string(text) + "\n")
}

// SignCheckpoint gives the signed note.
func SignCheckpoint(c *Checkpoint, s Signer) ([]byte, error) {
	signed, err := note.Sign(&note.Note{Text: c.text()}, s)
	if err != nil {
		return nil, fault.Wrapf(fault.AuditSigner, err, "a checkpoint could not be signed; the records are on the disk, without a signature")
	}
	return signed, nil
}

// The file of checkpoints is signed notes, each with a blank line after it: a
// block of text, a block of signatures, and so on.
var (
	blank   = []byte("\n\n")
	sigMark = []byte("— ")
)

// cutNote takes the first signed note from b. rest is b when there is none, or
// no whole one.
func cutNote(b []byte) (signed, rest []byte) {
	text := bytes.Index(b, blank)
	if text < 0 {
		return nil, b
	}
	sigs := bytes.Index(b[text+2:], blank)
	if sigs < 0 {
		return nil, b
	}
	end := text + 2 + sigs
	return b[:end+1], b[end+2:]
}

// LastNote gives the last whole note of a file of so many bytes, and where it
// ends; nil if there is none.
func LastNote(r io.ReaderAt, size int64) (signed []byte, end int64, err error) {
	from := max(0, size-4*MaxNote)
	b := make([]byte, size-from)
	if _, err := r.ReadAt(b, from); err != nil && err != io.EOF {
		return nil, 0, fault.Wrapf(fault.AuditIO, err, "the checkpoints cannot be read")
	}
	// From the end, block by block, to a block of signatures.
	for stop := bytes.LastIndex(b, blank); stop >= 0; {
		sigs := bytes.LastIndex(b[:stop], blank)
		if sigs < 0 {
			break
		}
		if !bytes.HasPrefix(b[sigs+2:], sigMark) {
			stop = sigs
			continue
		}
		text := bytes.LastIndex(b[:sigs], blank)
		if text < 0 && from > 0 {
			break
		} else if text < 0 {
			text = -len(blank)
		}
		return b[text+2 : stop+1], from + int64(stop) + 2, nil
	}
	return nil, 0, nil
}

// Notes reads the file of checkpoints, note by note.
type Notes struct {
	R    io.Reader
	buf  []byte
	done bool
}

// Next gives the next note, valid until the call after; nil at the end. torn
// says that bytes are left that make no note.
func (n *Notes) Next() (signed []byte, torn bool, err error) {
	for {
		signed, rest := cutNote(n.buf)
		if signed != nil {
			n.buf = rest
			return signed, false, nil
		}
		if n.done || len(n.buf) > MaxNote {
			return nil, len(n.buf) > 0, nil
		}
		more := make([]byte, len(n.buf)+64<<10)
		k := copy(more, n.buf)
		m, err := io.ReadFull(n.R, more[k:])
		n.buf = more[:k+m]
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			n.done = true
		default:
			return nil, false, fault.Wrapf(fault.AuditIO, err, "the checkpoints cannot be read")
		}
	}
}
