// Package volume opens the appliance's state volume: a disk of its own, encrypted
// by LUKS2 with a key that only this machine's TPM gives, and only to a system
// that was authorized ([holdfast/attest/tpm/seal], use StateVolume). The first
// boot makes it, on an empty disk.
//
// What is on the disk is not believed. The header is read once, into memory; it is
// refused unless it encrypts as this package does, since a header that says "no
// encryption" would be opened by any key; and cryptsetup is given that copy, not
// the disk's. Nobody but the TPM can make a header that its key opens.
//
// Another system on this machine can make a volume of its own, which opens as well.
// So the volume's identity, which only its key gives, is measured into
// [tpm.StateVolumePCR] before anything on the volume is read: evidence says which
// volume this machine has, and who released a secret to it before can compare.
//
// It does not notice a disk that was put back whole to what it once was.
package volume

import (
	"context"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"holdfast/appliance/fault"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
)

// Options are what opening needs.
type Options struct {
	// Disk is the device; [FindDisk] finds it.
	Disk string
	// Mount is the folder where the volume's file system is mounted; Owner is the
	// user and group that its root belongs to.
	Mount string
	Owner int
	// TPM gives the key to what Authorizations allow, which Key has signed, and takes
	// the measurement.
	TPM            TPM
	Key            *ecdsa.PublicKey
	Authorizations []seal.Authorization
	// Scratch is a folder in memory for the header's copy; the system's temporary
	// one if empty.
	Scratch string
}

// TPM is this machine's.
type TPM interface {
	seal.TPM
	// MeasureFirst extends the PCR with the measurement, if nothing has extended it since
	// the machine was started; else it gives [tpm.ErrExtended].
	MeasureFirst(m tpm.Measurement) error
}

const (
	// mapped is the opened volume's name for the device mapper.
	mapped = "holdfast-state"
	// labelNew is the LUKS label while the volume is being made, labelDone
	// afterwards. What is labelled new was never used: its making was cut off.
	labelNew  = "holdfast-new"
	labelDone = "holdfast-state"
	// tokenType is the type of the LUKS2 token that has the sealed key.
	tokenType = "holdfast-sealed"
	cipher    = "aes-xts-plain64"
	// keyBytes are those of the random passphrase, and of the volume's key.
	keyBytes = 64
)

// identityLabel is what a volume's key authenticates, to be its identity.
const identityLabel = "holdfast-volume/v1"

// identity gives the identity of the volume with that key: HMAC-SHA-256. It says
// nothing about the key.
func identity(key []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(identityLabel))
	return mac.Sum(nil)
}

// Opened is what is known of a volume.
type Opened struct {
	// Authorization is the name of that by which the TPM gave the key.
	Authorization string
	// Identity is what was measured into [tpm.StateVolumePCR], 32 bytes.
	Identity []byte
	// PINKey is the key to which the PIN is sealed besides: see [Opened.HandOver]. The
	// caller zeroizes it.
	PINKey []byte
}

// Open opens the volume, and makes it first on an empty disk. Errors: [*fault.Fault];
// the volume is not mounted then, and the identity is given if it was measured before
// that.
func Open(ctx context.Context, o Options) (Opened, error) {
	scratch, err := os.MkdirTemp(o.Scratch, "volume-*") // mode 0700
	if err != nil {
		return Opened{}, fault.Wrapf(fault.VolumeOpen, err, "no folder for the header's copy")
	}
	defer os.RemoveAll(scratch)
	v := &volume{o: o, header: filepath.Join(scratch, "header")}
	found, err := v.inspect(ctx)
	if err != nil {
		return Opened{}, err
	}
	if found == existing {
		err = v.open(ctx, false)
		return v.opened, err
	}
	if err := v.create(ctx); err != nil {
		return Opened{}, err
	}
	made, err := v.inspect(ctx)
	if err != nil {
		return Opened{}, err
	}
	if made != existing { // somebody has changed the disk meanwhile, and its header was not checked
		return Opened{}, fault.Errorf(fault.VolumeHeader, "the state volume's header is not the one that was just made, and is not trusted")
	}
	err = v.open(ctx, true)
	return v.opened, err
}

type volume struct {
	o Options
	// header is the file of the header's copy, metadata what it says.
	header   string
	metadata metadata
	opened   Opened
}

type kind int

const (
	empty kind = iota
	unfinished
	existing
)

// inspect says what is on the disk. If it is a volume, its header has been copied
// to memory, and is as it should be.
func (v *volume) inspect(ctx context.Context) (kind, error) {
	blank, err := isBlank(v.o.Disk)
	if err != nil {
		return empty, fault.Wrapf(fault.VolumeDisk, err, "the disk for the state cannot be read")
	}
	if blank {
		return empty, nil
	}
	if err := os.Remove(v.header); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return empty, fault.Wrapf(fault.VolumeOpen, err, "the header's copy")
	}
	if err := run(ctx, nil, "cryptsetup", "luksHeaderBackup", v.o.Disk, "--header-backup-file", v.header); err != nil {
		return empty, fault.Wrapf(fault.VolumeHeader, err, "the disk %s is neither empty nor a state volume; attach an empty one, or the one that belongs to this machine", v.o.Disk)
	}
	out, err := output(ctx, "cryptsetup", "luksDump", "--dump-json-metadata", v.header)
	if err != nil {
		return empty, fault.Wrapf(fault.VolumeHeader, err, "the state volume's header cannot be read")
	}
	v.metadata = metadata{}
	if err := json.Unmarshal(out, &v.metadata); err != nil {
		return empty, fault.Wrapf(fault.VolumeHeader, err, "the state volume's header cannot be read")
	}
	label, err := v.label()
	if err != nil {
		return empty, err
	}
	if label == labelNew {
		return unfinished, nil
	}
	if err := v.metadata.check(); err != nil {
		return empty, fault.Wrapf(fault.VolumeHeader, err, "the state volume's header is none that this appliance has made, and is not trusted")
	}
	return existing, nil
}

// label gives the LUKS label of the copied header.
func (v *volume) label() (string, error) {
	f, err := os.Open(v.header)
	if err != nil {
		return "", fault.Wrapf(fault.VolumeOpen, err, "the header's copy")
	}
	defer f.Close()
	// The binary header of LUKS2: magic (6), version (2), header size (8), sequence
	// (8), label (48) ... (LUKS2 on-disk format, section 2.1).
	b := make([]byte, 24+48)
	if _, err := io.ReadFull(f, b); err != nil {
		return "", fault.Wrapf(fault.VolumeHeader, err, "the state volume's header is too short")
	}
	return cString(b[24:]), nil
}

func cString(b []byte) string {
	if i := slices.Index(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// metadata is what matters of LUKS2's JSON area (LUKS2 on-disk format, section 3).
type metadata struct {
	Keyslots map[string]struct {
		Type    string `json:"type"`
		KeySize int    `json:"key_size"`
		Area    struct {
			Encryption string `json:"encryption"`
			KeySize    int    `json:"key_size"`
		} `json:"area"`
	} `json:"keyslots"`
	Segments map[string]struct {
		Type       string          `json:"type"`
		Encryption string          `json:"encryption"`
		IVTweak    string          `json:"iv_tweak"`
		Integrity  json.RawMessage `json:"integrity"`
		Flags      []string        `json:"flags"`
	} `json:"segments"`
	Tokens map[string]json.RawMessage `json:"tokens"`
	Config struct {
		Flags        []string        `json:"flags"`
		Requirements json.RawMessage `json:"requirements"`
	} `json:"config"`
}

// check refuses whatever this package does not make.
func (m *metadata) check() error {
	slot, ok := m.Keyslots["0"]
	if !ok || len(m.Keyslots) != 1 || slot.Type != "luks2" || slot.KeySize != keyBytes || slot.Area.Encryption != cipher || slot.Area.KeySize != keyBytes {
		return fmt.Errorf("it must have one keyslot, encrypted by %s with %d bytes", cipher, keyBytes)
	}
	segment, ok := m.Segments["0"]
	if !ok || len(m.Segments) != 1 || segment.Type != "crypt" || segment.Encryption != cipher || segment.IVTweak != "0" || segment.Integrity != nil || len(segment.Flags) > 0 {
		return fmt.Errorf("it must have one segment, encrypted by %s", cipher)
	}
	if len(m.Config.Flags) > 0 || m.Config.Requirements != nil {
		return errors.New("it asks for flags or has requirements, such as of a re-encryption")
	}
	_, _, err := m.sealed()
	return err
}

// token is the LUKS2 token that has the sealed key.
type token struct {
	Type     string          `json:"type"`
	Keyslots []string        `json:"keyslots"`
	Sealed   json.RawMessage `json:"sealed"`
	// MadeBy is what authorized the system that made the volume to open it.
	MadeBy *seal.Authorization `json:"made_by"`
}

// sealed gives the sealed key, and by what the system that made it was authorized.
func (m *metadata) sealed() (*seal.Blob, *seal.Authorization, error) {
	if len(m.Tokens) != 1 {
		return nil, nil, fmt.Errorf("it has %d tokens, not one with the sealed key", len(m.Tokens))
	}
	var t token
	if err := json.Unmarshal(m.Tokens["0"], &t); err != nil || t.Type != tokenType {
		return nil, nil, fmt.Errorf("its token is not of the type %s", tokenType)
	}
	blob, err := seal.ParseBlob(t.Sealed)
	switch {
	case err != nil:
		return nil, nil, err
	case blob.Use != seal.StateVolume:
		return nil, nil, fmt.Errorf("what is sealed in it is for the %s", blob.Use)
	case t.MadeBy == nil:
		return nil, nil, errors.New("it does not say by what the system that made it was authorized")
	}
	return blob, t.MadeBy, nil
}

// create makes the volume. If it is cut off, the next boot begins anew.
func (v *volume) create(ctx context.Context) error {
	secret := make([]byte, keyBytes)
	_, _ = rand.Read(secret) // never fails (crypto/rand)
	defer clear(secret)
	blob, err := seal.Seal(v.o.TPM, v.o.Key, seal.StateVolume, secret)
	if err != nil {
		return fault.Wrapf(fault.TPMFailed, err, "the state volume's key cannot be sealed")
	}
	text, err := blob.Encode()
	if err != nil {
		return fault.Wrapf(fault.VolumeOpen, err, "the state volume's key cannot be sealed")
	}
	madeBy, err := seal.MadeBy(blob, v.o.Authorizations)
	if err != nil {
		return err
	}
	sealed, err := json.Marshal(token{tokenType, []string{"0"}, text, madeBy})
	if err != nil {
		return fault.Wrapf(fault.VolumeOpen, err, "the state volume's key cannot be sealed")
	}
	disk := v.o.Disk
	for _, step := range []struct {
		input   []byte
		program []string
	}{
		// The key is random: deriving it from a passphrase slowly protects nothing.
		{secret, []string{"cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--label", labelNew, "--cipher", cipher, "--key-size", fmt.Sprint(8 * keyBytes),
			"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-", disk}},
		{sealed, []string{"cryptsetup", "token", "import", "--token-id", "0", "--json-file", "-", disk}},
		{secret, []string{"cryptsetup", "open", "--type", "luks2", "--key-file", "-", disk, mapped}},
		{nil, []string{"mke2fs", "-q", "-t", "ext4", "-m", "1", "/dev/mapper/" + mapped}},
		{nil, []string{"cryptsetup", "close", mapped}},
		{nil, []string{"cryptsetup", "config", "--label", labelDone, disk}},
	} {
		if err := run(ctx, step.input, step.program...); err != nil {
			_ = run(ctx, nil, "cryptsetup", "close", mapped) // it may not be open
			return fault.Wrapf(fault.VolumeOpen, err, "the state volume cannot be made")
		}
	}
	return nil
}

// open has the TPM give the key, measures which volume it is, and mounts it.
func (v *volume) open(ctx context.Context, fresh bool) error {
	blob, madeBy, err := v.metadata.sealed()
	if err != nil {
		return fault.Wrapf(fault.VolumeHeader, err, "the state volume's header has no key for this appliance")
	}
	secret, name, err := seal.Unseal(v.o.TPM, blob, v.o.Authorizations)
	if refused, ok := errors.AsType[*fault.Fault](err); ok {
		return refused
	}
	if err != nil {
		return fault.Wrapf(fault.TPMFailed, err, "the TPM does not give the state volume's key")
	}
	defer clear(secret)
	if err := v.made(blob, madeBy); err != nil {
		return err
	}
	unlock := []string{"cryptsetup", "open", "--type", "luks2", "--header", v.header, "--key-file", "-", v.o.Disk}
	if err := run(ctx, secret, append(unlock, "--test-passphrase")...); err != nil {
		return fault.Wrapf(fault.VolumeOpen, err, "the state volume does not open with the key that its TPM gave")
	}
	if err := v.measure(secret); err != nil {
		return err
	}
	if err := run(ctx, secret, append(unlock, mapped)...); err != nil {
		return fault.Wrapf(fault.VolumeOpen, err, "the state volume does not open with the key that its TPM gave")
	}
	if err := v.mount(ctx, fresh); err != nil {
		_ = run(ctx, nil, "cryptsetup", "close", mapped)
		return err
	}
	if v.opened.PINKey, err = pinKey(secret); err != nil {
		return fault.Wrapf(fault.VolumeOpen, err, "no key can be derived for the PIN")
	}
	v.opened.Authorization = name
	return nil
}

// made says why the volume was not made by a system that was authorized to have its key:
// another one can have this TPM seal, and make a volume that opens.
func (v *volume) made(blob *seal.Blob, by *seal.Authorization) error {
	if err := by.Verify(v.o.Key); err != nil {
		return err
	}
	if _, err := seal.MadeBy(blob, []seal.Authorization{*by}); err != nil {
		return fault.Wrapf(fault.SealMade, err, "the state volume was made on this machine by a system that was not authorized")
	}
	return nil
}

// measure extends the PCR with the volume's identity. What is on the volume was not
// looked at yet, so that nothing there can have a say in it.
func (v *volume) measure(key []byte) error {
	id := identity(key)
	err := v.o.TPM.MeasureFirst(tpm.StateVolume(id))
	if errors.Is(err, tpm.ErrExtended) {
		return fault.Wrapf(fault.VolumeMeasured, err, "PCR %d, which has the state volume's identity alone, was extended before", tpm.StateVolumePCR)
	}
	if err != nil {
		return fault.Wrapf(fault.TPMFailed, err, "the state volume's identity cannot be measured")
	}
	v.opened.Identity = id
	return nil
}

func (v *volume) mount(ctx context.Context, fresh bool) error {
	device := "/dev/mapper/" + mapped
	if !fresh {
		// What a power cut left is mended; what cannot be mended is not mounted.
		if err := run(ctx, nil, "e2fsck", "-p", device); err != nil && exitCode(err) != 1 {
			return fault.Wrapf(fault.VolumeOpen, err, "the state volume's file system is damaged; attach an empty disk in its place, restart the machine, and restore a backup")
		}
	}
	if err := mount(device, v.o.Mount, v.o.Owner); err != nil {
		return fault.Wrapf(fault.VolumeOpen, err, "the state volume cannot be mounted")
	}
	return nil
}
