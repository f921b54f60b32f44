package volume

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"holdfast/appliance/fault"
	"holdfast/attest/tpm"

	"github.com/go-json-experiment/json"
)

// Outcome is what became of the state volume, before the appliance was started.
// Opening it takes rights that the appliance does not have: the image does that,
// and leaves word in a file, such as
//
//	{"opened":true,"authorization":"release 1.2.0","identity":"9f3c…"}
//	{"opened":false,"code":"E_SEAL_PCRS","reason":"the machine is in no state that was authorized"}
type Outcome struct {
	Opened bool `json:"opened"`
	// Authorization is the name of what the TPM was authorized by to open it.
	Authorization string `json:"authorization,omitempty"`
	// Identity is what was measured into [tpm.StateVolumePCR] for the volume, 32 bytes:
	// always if it was opened, and if it came to that before it failed.
	Identity tpm.Hex `json:"identity,omitempty"`
	// Device is the number of the file system that was mounted at the state's folder
	// (stat(2), st_dev), 0 if not known. Who reads this compares: a folder that is on
	// another one is not the state, and what is written there does not last.
	Device uint64 `json:"device,omitzero"`
	// Code, such as E_SEAL_PCRS, and Reason say why it was not opened.
	Code   string `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// OutcomeOf gives the outcome of [Open], or of an error before.
func OutcomeOf(opened Opened, err error) Outcome {
	if err == nil {
		return Outcome{Opened: true, Authorization: opened.Authorization, Identity: opened.Identity}
	}
	f, ok := errors.AsType[*fault.Fault](err)
	if !ok {
		f = fault.Wrapf(fault.VolumeOpen, err, "the state volume cannot be opened")
	}
	return Outcome{Code: f.Codes(), Reason: f.Reason(), Identity: opened.Identity}
}

// maxFile bounds the file, in bytes.
const maxFile = 16 << 10

var code = regexp.MustCompile(`^E_[A-Z0-9_]{1,60}$`)

// Read reads the file.
func Read(path string) (*Outcome, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	o, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return o, nil
}

// Parse reads an outcome. It is strict: what is unknown or does not go together is
// an error. The texts are made one line each.
func Parse(text []byte) (*Outcome, error) {
	if len(text) > maxFile {
		return nil, fmt.Errorf("more than %d bytes", maxFile)
	}
	var o *Outcome
	if err := json.Unmarshal(text, &o, json.RejectUnknownMembers(true)); err != nil {
		return nil, err
	}
	switch {
	case o == nil:
		return nil, errors.New("it says nothing")
	case o.Opened && (o.Code != "" || o.Reason != ""):
		return nil, errors.New("it is opened, and there is a reason why not")
	case o.Opened && o.Identity == nil:
		return nil, errors.New("it is opened, and the identity that was measured for it is missing; holdfastd volume open gives it")
	case o.Identity != nil && len(o.Identity) != sha256.Size:
		return nil, fmt.Errorf("the identity has %d bytes, not %d", len(o.Identity), sha256.Size)
	case !o.Opened && (!code.MatchString(o.Code) || o.Reason == ""):
		return nil, fmt.Errorf("it is not opened, and a code such as %s or a reason is missing", fault.SealPCRs)
	}
	o.Authorization, o.Reason = line(o.Authorization), line(o.Reason)
	return o, nil
}

// line puts a text on one line.
func line(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }), " ")
}

// Write writes the file, whole or not at all. Everybody may read it.
func (o Outcome) Write(path string) error {
	o.Reason = line(o.Reason)
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".outcome-*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// DeviceOf gives the number of the file system that a folder is on.
func DeviceOf(dir string) (uint64, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return 0, err
	}
	return info.Sys().(*syscall.Stat_t).Dev, nil // on Linux it always is one
}
