package instance

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"

	"github.com/go-json-experiment/json"

	"holdfast/attest/ec2"
	"holdfast/attest/owner"
)

// Identity is who an instance says it is.
type Identity = ec2.Instance

// maxSetup bounds user data with a hash.
const maxSetup = 4096

var sum = regexp.MustCompile(`^[0-9a-f]{64}$`)

// ParseSetup reads user data that have the SHA-256 of a setup code and nothing
// else:
//
//	{"holdfast":1,"setup_code_sha256":"…64 hexadecimal digits…"}
func ParseSetup(text []byte) ([sha256.Size]byte, error) {
	var d struct {
		Holdfast int    `json:"holdfast"`
		Sum      string `json:"setup_code_sha256"`
	}
	var digest [sha256.Size]byte
	if len(text) > maxSetup {
		return digest, fmt.Errorf("user data: more than %d bytes", maxSetup)
	}
	if err := json.Unmarshal(text, &d, json.RejectUnknownMembers(true)); err != nil {
		return digest, errors.New(`user data: not of the form {"holdfast":1,"setup_code_sha256":"..."}`) // what they have may be anything
	}
	if d.Holdfast != 1 || !sum.MatchString(d.Sum) {
		return digest, errors.New("user data: holdfast is not 1, or setup_code_sha256 not 64 hexadecimal digits in lower case")
	}
	_, _ = hex.Decode(digest[:], []byte(d.Sum)) // its form has been checked
	return digest, nil
}

// UserData is what the user data of an instance have for Holdfast.
type UserData struct {
	// Setup is the SHA-256 of a setup code; nil without one.
	Setup *[sha256.Size]byte
	// Launch is a launch file that is signed by the owner whom it names; nil without one.
	// Document is the launch document that it came in.
	Launch   *owner.Launch
	Document []byte
}

// ParseUserData reads user data: of version 1, which is what [ParseSetup] reads, or of
// version 2, which is a launch document (package attest/owner).
func ParseUserData(text []byte) (*UserData, error) {
	var of struct {
		Holdfast int `json:"holdfast"`
	}
	if len(text) <= owner.MaxDocument && json.Unmarshal(text, &of) == nil && of.Holdfast == 2 {
		l, code, err := owner.ParseDocument(text)
		if err != nil {
			return nil, fmt.Errorf("user data: %w", err)
		}
		d := &UserData{Launch: l, Document: text}
		if code != "" {
			d.Setup = new([sha256.Size]byte)
			_, _ = hex.Decode(d.Setup[:], []byte(code)) // its form has been checked
		}
		return d, nil
	}
	digest, err := ParseSetup(text)
	if err != nil {
		return nil, err
	}
	return &UserData{Setup: &digest}, nil
}

// ReadSetup reads a file with that.
func ReadSetup(path string) ([sha256.Size]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSetup+1))
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	digest, err := ParseSetup(text)
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return digest, err
}
