package owner

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"regexp"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// MaxDocument is the size of the largest launch document in bytes: what EC2 takes as
// user data.
const MaxDocument = 16 << 10

// documentVersion is the member "holdfast" of a launch document. Version 1 of what
// stands in user data has no launch file.
const documentVersion = 2

// document is a launch file with its signature, as it travels to a machine and rests
// there.
type document struct {
	Holdfast  int            `json:"holdfast"`
	Launch    []byte         `json:"launch"` // gzip, in Base64
	Signature jsontext.Value `json:"signature"`
	SetupCode string         `json:"setup_code_sha256,omitempty"`
}

var sum = regexp.MustCompile(`^[0-9a-f]{64}$`)

// EncodeDocument gives the launch document of a launch file and its signature: one line
// of JSON, of at most [MaxDocument] bytes. setupCode is the SHA-256 of the code by which
// the first administrator comes in, 64 hexadecimal digits in lower case; empty without
// one. It is no part of what is signed.
func EncodeDocument(file, envelope []byte, setupCode string) ([]byte, error) {
	if _, err := Open(file, envelope); err != nil {
		return nil, err
	}
	if setupCode != "" && !sum.MatchString(setupCode) {
		return nil, errors.New("launch document: the hash of the setup code is not 64 hexadecimal digits in lower case")
	}
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(file); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(document{documentVersion, packed.Bytes(), envelope, setupCode})
	if err != nil {
		return nil, err
	}
	if text = append(text, '\n'); len(text) > MaxDocument {
		return nil, fmt.Errorf("launch document: %d bytes, of which EC2 takes %d as user data; shorten the launch file, whose certificates take the most", len(text), MaxDocument)
	}
	return text, nil
}

// ParseDocument reads a launch document, and takes the launch file in it by [Open]. It
// refuses unknown and duplicate names, and decompresses no more than a launch file may
// have. setupCode is as [EncodeDocument] has it.
func ParseDocument(text []byte) (l *Launch, setupCode string, err error) {
	if len(text) > MaxDocument {
		return nil, "", fmt.Errorf("launch document: more than %d bytes", MaxDocument)
	}
	var d document
	if err := json.Unmarshal(text, &d, json.RejectUnknownMembers(true)); err != nil {
		return nil, "", errors.New(`launch document: not of the form {"holdfast":2,"launch":"...","signature":{...}}; make one with holdfast launch sign --user-data`) // what it has may be anything
	}
	if d.Holdfast != documentVersion {
		return nil, "", fmt.Errorf("launch document: holdfast is %d, and this program reads %d", d.Holdfast, documentVersion)
	}
	if d.SetupCode != "" && !sum.MatchString(d.SetupCode) {
		return nil, "", errors.New("launch document: setup_code_sha256 is not 64 hexadecimal digits in lower case")
	}
	file, err := unpack(d.Launch)
	if err != nil {
		return nil, "", fmt.Errorf("launch document: %w", err)
	}
	l, err = Open(file, d.Signature)
	return l, d.SetupCode, err
}

// unpack decompresses at most a launch file, from all bytes that there are.
func unpack(packed []byte) ([]byte, error) {
	from := bytes.NewReader(packed)
	r, err := gzip.NewReader(from)
	if err != nil {
		return nil, fmt.Errorf("the launch file in it is not compressed by gzip: %w", err)
	}
	r.Multistream(false)
	file, err := io.ReadAll(io.LimitReader(r, MaxFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the launch file in it is damaged: %w", err)
	case len(file) > MaxFile:
		return nil, fmt.Errorf("the launch file in it has more than %d bytes", MaxFile)
	case from.Len() > 0:
		return nil, errors.New("something follows the launch file in it")
	}
	return file, nil
}

// ReadDisk reads a launch document from the beginning of a disk or partition, where it
// is followed by zeros; nil if there are zeros alone. No more than [MaxDocument] bytes are
// read, and no file system.
func ReadDisk(disk io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(disk, MaxDocument))
	if err != nil {
		return nil, err
	}
	text = bytes.TrimRight(text, "\x00")
	if bytes.IndexByte(text, 0) >= 0 {
		return nil, errors.New("it has something else than a launch document at its beginning; write the file of holdfast launch sign --user-data to it with dd")
	}
	if len(text) == 0 {
		return nil, nil
	}
	return text, nil
}
