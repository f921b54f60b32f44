package release

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-json-experiment/json"
)

// The log is a chain: each line has its number, the SHA-256 of the line before, and as its
// last member "signature" the log key's signature over what stands before that member. The
// head, a file beside the log, says in the same form what the last line is, and what all of
// them have made of the broker.

// What a signature is over begins with its purpose.
const (
	ofRecord = "holdfast-broker-log/v1 record\n"
	ofHead   = "holdfast-broker-log/v1 head\n"
)

// maxLine bounds a line and the head, in bytes: evidence that a stranger made has a say in
// a reason, and a beginning has all machines.
const maxLine = 1 << 20

const (
	signatureName = `,"signature":"`
	signatureSize = len(signatureName) + 88 + len(`"}`)
)

// noDigest stands in the first line of a file for the line before.
var noDigest = strings.Repeat("0", 2*sha256.Size)

func digestOf(line []byte) string {
	d := sha256.Sum256(line)
	return hex.EncodeToString(d[:])
}

// signLine gives v as one signed line, without its end.
func signLine(purpose string, v any, key ed25519.PrivateKey) ([]byte, error) {
	text, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	body := text[:len(text)-1]
	signature := ed25519.Sign(key, append([]byte(purpose), body...))
	line := append(body, signatureName+base64.StdEncoding.EncodeToString(signature)+`"}`...)
	if len(line) > maxLine {
		return nil, fmt.Errorf("a line of %d bytes; at most %d are read", len(line), maxLine)
	}
	return line, nil
}

// openLine reads a line that signLine made into v. It verifies the signature unless key is nil.
func openLine(purpose string, line []byte, key ed25519.PublicKey, v any) error {
	at := len(line) - signatureSize
	if at < 1 || len(line) > maxLine || !bytes.HasPrefix(line[at:], []byte(signatureName)) || !bytes.HasSuffix(line, []byte(`"}`)) {
		return errors.New("it has no signature")
	}
	text := line[at+len(signatureName) : len(line)-len(`"}`)]
	signature, err := base64.StdEncoding.Strict().DecodeString(string(text))
	if err != nil || len(signature) != ed25519.SignatureSize {
		return errors.New("its signature is none of Ed25519")
	}
	if key != nil && !ed25519.Verify(key, append([]byte(purpose), line[:at]...), signature) {
		return errors.New("its signature does not verify")
	}
	return decode(append(bytes.Clone(line[:at]), '}'), v)
}

// head says what the last line is.
type head struct {
	Number uint64 `json:"number"`
	// Size is the log's, in bytes, up to the end of that line; Digest the line's.
	Size   int64    `json:"size"`
	Digest string   `json:"digest"`
	State  LogState `json:"state"`
}

// after is the head after one line more.
func (h *head) after(r *Record, line []byte) head {
	next := head{r.Number, h.Size + int64(len(line)) + 1, digestOf(line), h.State.clone()}
	next.State.apply(r)
	return next
}

// next says why the record does not follow on the head.
func (h *head) next(r *Record) error {
	switch {
	case h.Size == 0 && r.Result != Begun:
		return fmt.Errorf("it has the number %d, and the file does not begin with a record that says so: lines before it are missing", r.Number)
	case h.Size == 0 && r.Prev != noDigest:
		return errors.New("it names a line before it, and is the first")
	case h.Size == 0:
		return nil
	case r.Number != h.Number+1:
		return fmt.Errorf("it has the number %d after %d: lines were removed, added or exchanged", r.Number, h.Number)
	case r.Prev != h.Digest:
		return fmt.Errorf("the line before it was changed: its SHA-256 is %s, and was %s", h.Digest, r.Prev)
	case r.Result == Begun || r.State != nil:
		return errors.New("it begins a log, and is not the first line of the file")
	}
	return nil
}

// errTorn says that the last line has no end: the program, or the machine, stopped while it was written.
var errTorn = errors.New("the last line has no end")

// chain follows the lines of a log, from a head on, and gives the head of the last that is
// good. It verifies signatures unless key is nil. Each, if given, is called with each
// record. Errors: [errTorn]; what is wrong, with the line's number in the file.
func chain(lines io.Reader, from head, at int, key ed25519.PublicKey, each func(*Record) error) (head, error) {
	in := bufio.NewReaderSize(lines, 64<<10)
	for n := at; ; n++ {
		line, err := readLine(in)
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0:
			return from, nil
		case errors.Is(err, io.EOF):
			return from, errTorn
		case err != nil:
			return from, fmt.Errorf("line %d: %w", n, err)
		}
		r := &Record{}
		if err := openLine(ofRecord, line, key, r); err != nil {
			return from, fmt.Errorf("line %d: %w", n, err)
		}
		if err := from.next(r); err != nil {
			return from, fmt.Errorf("line %d: %w", n, err)
		}
		if each != nil {
			if err := each(r); err != nil {
				return from, err
			}
		}
		from = from.after(r, line)
	}
}

// readLine gives a line without its end; with io.EOF what stands after the last end.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine+1 {
			return nil, fmt.Errorf("it has more than %d bytes", maxLine)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return line, err
		}
		return line[:len(line)-1], nil
	}
}

// LogReport is what [VerifyLog] found.
type LogReport struct {
	// Records is how many there are, First and Last the numbers; 0 if there are none.
	Records int    `json:"records"`
	First   uint64 `json:"first"`
	Last    uint64 `json:"last"`
	// Digest is that of the last line: to compare with one that was noted elsewhere.
	Digest string `json:"sha256"`
	// Before is the file that this one follows on, if there is one.
	Before *FormerRecord `json:"before,omitempty"`
	// Head says whether the log was held against its head. Without it, lines that were
	// cut off at the end are not missed.
	Head bool `json:"head"`
}

// VerifyLog follows the chain of a log's file, with all signatures, up to the head; a nil
// head is not compared. The error says where it breaks; the report is of what was good.
func VerifyLog(log io.Reader, headFile []byte, key ed25519.PublicKey) (*LogReport, error) {
	report := &LogReport{}
	last, err := chain(log, head{}, 1, key, func(r *Record) error {
		if report.Records++; report.Records == 1 {
			report.First, report.Before = r.Number, r.Before
		}
		return nil
	})
	report.Last, report.Digest = last.Number, last.Digest
	switch {
	case err != nil && !errors.Is(err, errTorn):
		return report, err
	case report.Records == 0:
		return report, errors.New("there is no record in it")
	case headFile == nil:
		return report, err
	}
	var h head
	if err := openLine(ofHead, bytes.TrimSuffix(headFile, []byte("\n")), key, &h); err != nil {
		return report, fmt.Errorf("the head: %w", err)
	}
	report.Head = true
	switch {
	case h.Number > last.Number || h.Number == last.Number && h.Digest != last.Digest:
		return report, fmt.Errorf("the head names the record %d with the SHA-256 %s, and the last of the log is %d with %s: lines were cut off, or head and log are of different times", h.Number, h.Digest, last.Number, last.Digest)
	case h.Number+1 < last.Number: // a crash leaves one line that the head does not name
		return report, fmt.Errorf("the head names the record %d, and the log ends with %d: the head is an older one", h.Number, last.Number)
	}
	return report, nil
}
