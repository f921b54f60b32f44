package ownership

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/launch"
	"holdfast/appliance/machine/instance"
	"holdfast/attest"
	"holdfast/attest/owner"
)

// StoredFile is the name of the launch document in the folder launch.dir.
const StoredFile = "document.json"

// The files beside it of what the owner has signed for the machine's TPM.
const (
	// ApprovalsFile has the releases that the owner has approved.
	ApprovalsFile = "approvals.json"
	// SuccessionsFile has the exchanges of the owner's key.
	SuccessionsFile = "successions.json"
)

// Machine is the machine whose owner is asked for.
type Machine struct {
	// Image is the configuration of the image.
	Image *config.Config
	// Closed says that the state volume is not open: nothing is remembered then, so
	// nothing new is taken.
	Closed bool
	// UserData, if given, gives the user data; nil if there are none that can be used.
	UserData func(ctx context.Context) *instance.UserData
	// Write writes a file whole or not at all, and durably.
	Write func(path string, content []byte) error
	Log   *slog.Logger
}

// Owned is what came of it.
type Owned struct {
	// Config is the configuration in force: the image's with the launch file over it; the
	// image's alone if there is none that counts.
	Config *config.Config
	// Launch is the launch file that counts; nil if none does.
	Launch *owner.Launch
	// File is what it says; nil if none counts.
	File *launch.File
	// Why says why none counts though the image asks for one; nil otherwise.
	Why *fault.Fault
	// Ignored says what was found and does not count; nil if nothing was.
	Ignored *fault.Fault
}

// Find takes the launch file.
func (m Machine) Find(ctx context.Context) Owned {
	o := Owned{Config: m.Image}
	if !m.Image.Launch.Required {
		return o
	}
	document, given, from, err := m.look(ctx)
	if err == nil {
		o, err = m.take(document, from)
	}
	if err != nil {
		return Owned{Config: m.Image, Why: unusable(err, from)}
	}
	if given != nil && given.Launch != nil && !bytes.Equal(given.Launch.Digest, o.Launch.Digest) {
		o.Ignored = fault.Errorf(fault.LaunchIgnored, "the user data have the launch file %x, version %d, signed by %s; this machine has %x, and goes on with that", given.Launch.Digest, given.Launch.Version, given.Launch.KeyID(), o.Launch.Digest)
	}
	return o
}

// unusable is why a launch file does not count.
func unusable(err error, from string) (f *fault.Fault) {
	if !errors.As(err, &f) {
		// Who has given it reads why: the cause is of what they wrote.
		f = fault.Errorf(fault.LaunchFile, "the launch file of %s cannot be used: %s", from, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return f
}

// look gives the launch document that counts, and where it is from; and the user data, if
// they were asked for.
func (m Machine) look(ctx context.Context) (document []byte, given *instance.UserData, from string, err error) {
	if m.UserData != nil {
		given = m.UserData(ctx)
	}
	from = m.stored()
	document, err = readFile(from)
	if !errors.Is(err, fs.ErrNotExist) {
		return document, given, from, err
	}
	if m.Closed {
		return nil, nil, from, fault.Errorf(fault.LaunchMissing, "the image asks for a launch file, %s has none, and while the state volume is not open none is taken", m.Image.Launch.Dir)
	}
	if disk := m.Image.Launch.Disk; disk != "" {
		if document, err = readDisk(disk); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, given, disk, err
		}
		if document != nil {
			return document, given, disk, nil
		}
	}
	if given != nil && given.Launch != nil {
		return given.Document, given, "the user data", nil
	}
	return nil, given, from, fault.Errorf(fault.LaunchMissing, "the image asks for a launch file, and neither %s nor a disk nor the user data have one", m.Image.Launch.Dir)
}

func (m Machine) stored() string { return filepath.Join(m.Image.Launch.Dir, StoredFile) }

// take opens a launch document, and keeps it and what is remembered of it.
func (m Machine) take(document []byte, from string) (Owned, error) {
	known, err := m.recall()
	if err != nil {
		return Owned{}, err
	}
	o, err := m.open(document, from, known, m.keep)
	if err != nil {
		return o, err
	}
	return o, m.remember(known, o.Launch, document, from)
}

// open opens a launch document, holds it against what is remembered, and puts the launch
// file over the image's configuration. keep is that of [launch.File.Apply].
func (m Machine) open(document []byte, from string, known *memory, keep func(name string, content []byte) (string, error)) (o Owned, err error) {
	l, _, err := owner.ParseDocument(document)
	if errors.Is(err, owner.ErrSignature) || errors.Is(err, owner.ErrDigest) {
		return o, fault.Errorf(fault.LaunchSignature, "the launch file of %s does not count: %s", from, err)
	}
	if err != nil {
		return o, err
	}
	if err := known.mayReplace(l, from); err != nil {
		return o, err
	}
	f, err := launch.Take("launch file", l)
	if errors.Is(err, launch.ErrOwner) {
		return o, fault.Errorf(fault.LaunchSignature, "the launch file of %s does not count: %s", from, err)
	}
	if err != nil {
		return o, err
	}
	cfg, err := m.apply(f, keep)
	if err != nil {
		return o, err
	}
	return Owned{Config: cfg, Launch: l, File: f}, nil
}

// apply puts a launch file over the image's configuration. keep is that of [launch.File.Apply].
func (m Machine) apply(f *launch.File, keep func(name string, content []byte) (string, error)) (*config.Config, error) {
	cfg, err := f.Apply("launch file", m.Image, keep)
	if err != nil {
		return nil, err
	}
	return cfg, modules(cfg)
}

// keep writes certificates that the configuration names by a file.
func (m Machine) keep(name string, content []byte) (string, error) {
	path := m.Image.LaunchCertificate(name)
	return path, m.Write(path, content)
}

// modules says which module of the configuration the image lacks.
func modules(c *config.Config) error {
	names := []string{c.HSM.Module}
	for _, member := range c.HSM.Members {
		names = append(names, member.Module)
	}
	for _, path := range names {
		if path == "" {
			continue
		}
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("hsm.module: the image has no module %s in %s; name one that it has, or start an image with it", filepath.Base(path), c.Launch.Modules)
		}
	}
	return nil
}

// remember keeps the launch document and what is remembered of it.
func (m Machine) remember(known *memory, l *owner.Launch, document []byte, from string) error {
	if m.Closed {
		return nil
	}
	if from != m.stored() {
		if err := m.Write(m.stored(), document); err != nil {
			return fmt.Errorf("it cannot be kept: %w", err)
		}
		m.Log.Info("the machine has a launch file", "from", from, "sha256", fmt.Sprintf("%x", l.Digest), "version", l.Version, "owner", l.KeyID())
	}
	if known != nil && known.id().Is(l.ID()) {
		return nil
	}
	text, err := encodeMemory(l)
	if err == nil {
		err = m.Write(m.memoryFile(), text)
	}
	if err != nil {
		return fmt.Errorf("it cannot be remembered: %w", err)
	}
	return nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, owner.MaxDocument)
}

// readDisk reads a disk; nil if it is empty.
func readDisk(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return owner.ReadDisk(f)
}

// keyID names an owner that is remembered.
func (k *memory) keyID() string { return attest.KeyID(k.Owner) }
