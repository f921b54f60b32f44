package ownership

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/go-json-experiment/json"

	"holdfast/appliance/fault"
	"holdfast/attest"
	"holdfast/attest/owner"
)

// MemoryFile is the name of the file, in the folder of the state, with what is remembered.
const MemoryFile = "launch-owner.json"

// memoryFormat names what is remembered, and its version.
const memoryFormat = "holdfast-launch-owner/v1"

// memory is what the machine remembers of the launch file that it had last. It rests on
// the encrypted state volume.
type memory struct {
	Format  string            `json:"format"`
	Owner   ed25519.PublicKey `json:"owner"`
	Version uint64            `json:"version"`
	Digest  []byte            `json:"launch_sha256"`
}

func (m Machine) memoryFile() string { return filepath.Join(m.Image.State.Dir, MemoryFile) }

func encodeMemory(l *owner.Launch) ([]byte, error) {
	return json.Marshal(memory{memoryFormat, l.Owner, l.Version, l.Digest}, json.Deterministic(true))
}

// recall gives what is remembered; nil if the machine had no launch file yet.
func (m Machine) recall() (*memory, error) {
	if m.Closed {
		return nil, nil
	}
	text, err := readFile(m.memoryFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var k memory
	if err == nil {
		err = json.Unmarshal(text, &k, json.RejectUnknownMembers(true))
	}
	if err == nil && (k.Format != memoryFormat || len(k.Owner) != ed25519.PublicKeySize || k.Version == 0 || len(k.Digest) != sha256.Size) {
		err = errors.New("it is not of the form that it should have")
	}
	if err != nil {
		return nil, fault.Wrapf(fault.LaunchOwner, err, "%s, which says whose this machine is, cannot be read; restore a backup", m.memoryFile())
	}
	return &k, nil
}

// mayReplace says why a launch file may not take the place of the one that is remembered.
func (k *memory) mayReplace(l *owner.Launch, from string) error {
	switch {
	case k == nil:
	case !l.Owner.Equal(k.Owner) && !l.SignedBy(k.Owner):
		return fault.Errorf(fault.LaunchOwner, "the launch file of %s is signed by %s, and the owner of this machine is %s", from, l.KeyID(), k.keyID())
	default:
		if err := k.id().CheckNext(l.ID()); err != nil {
			return fault.Errorf(fault.LaunchVersion, "the launch file of %s is refused: %s", from, err)
		}
	}
	return nil
}

func (k *memory) id() attest.SignedID { return attest.SignedID{Version: k.Version, Digest: k.Digest} }

func readAll(r io.Reader, most int) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
	if err == nil && len(text) > most {
		err = fmt.Errorf("it has more than %d bytes", most)
	}
	return text, err
}
