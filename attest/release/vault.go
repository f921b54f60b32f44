package release

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"filippo.io/age"

	"holdfast/appliance/fault"
	"holdfast/attest/privatefile"
)

// Vault is the broker's folder: credentials, each encrypted with age; the
// appraisal policy; who was stopped; the log of releases. Every command reads
// the folder anew, so that what an administrator changes acts at once.
type Vault struct {
	dir      string
	identity string // file of the age identity

	// Person does what is changed, for the log; empty for a program.
	Person string

	mu   sync.Mutex // over what follows, and the files
	seen seen
}

// ValidMachine says whether a machine may be called so: 1 to 64 letters, digits, '.',
// '_' and '-', beginning with a letter or digit.
func ValidMachine(name string) bool { return machineName.MatchString(name) }

var machineName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// The files of a vault.
const (
	credentialDir    = "credentials"
	credentialSuffix = ".age"
	stoppedSuffix    = ".stopped"
	allStopped       = "all.stopped"
	policyFile       = "policy.json"
	policyNextFile   = "policy-next.json"
	policyKeyFile    = "policy-key"
)

// CreateVault makes a vault and its identity, neither of which may be there. The
// identity decrypts the credentials: kept on another disk, or given only while
// the broker runs, it makes a stolen folder worthless. It is the file identity
// in the folder if none is named.
func CreateVault(dir, identity string) (*Vault, error) {
	v := newVault(dir, identity)
	if _, err := os.Lstat(v.identity); err == nil {
		return nil, fmt.Errorf("broker: there is an identity %s already, which may be that of another vault: choose another file", v.identity)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	if err := os.Mkdir(v.path(credentialDir), 0o700); errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("broker: there is a vault in %s already: choose another folder", dir)
	} else if err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	id, err := age.GenerateHybridIdentity()
	if err == nil {
		err = writeFile(v.identity, []byte(id.String()+"\n"))
	}
	if err != nil {
		_ = os.Remove(v.path(credentialDir)) // so that another attempt can be made
		return nil, err
	}
	_, err = v.BeginLog(Beginning{Now: time.Now(), Reason: "the broker was made"})
	return v, err
}

// FindVault opens a vault that is there; [fs.ErrNotExist] if there is none. It
// does not read the identity: releases can be stopped without it.
func FindVault(dir, identity string) (*Vault, error) {
	v := newVault(dir, identity)
	if _, err := os.Stat(v.path(credentialDir)); err != nil {
		return nil, fmt.Errorf("broker: no vault in %s: %w", dir, err)
	}
	return v, nil
}

// OpenVault opens a vault whose identity can be read, and makes both if there is
// no vault. It makes no identity for a vault that has lost its own.
func OpenVault(dir, identity string) (*Vault, error) {
	v, err := FindVault(dir, identity)
	if errors.Is(err, fs.ErrNotExist) {
		return CreateVault(dir, identity)
	}
	if err != nil {
		return nil, err
	}
	return v, v.CheckIdentity()
}

func newVault(dir, identity string) *Vault {
	if identity == "" {
		identity = filepath.Join(dir, "identity")
	}
	return &Vault{dir: dir, identity: identity}
}

// CheckLog says why the log cannot be used, without which nothing is released or changed.
// Errors: fault.BrokerLog.
func (v *Vault) CheckLog() error { return v.locked(func(*ledger) error { return nil }) }

// CheckIdentity says why the identity cannot be used, without which nothing can
// be released or added.
func (v *Vault) CheckIdentity() error {
	_, err := v.identities()
	return err
}

func (v *Vault) path(parts ...string) string {
	return filepath.Join(append([]string{v.dir}, parts...)...)
}

func (v *Vault) identities() ([]age.Identity, error) {
	f, err := os.Open(v.identity)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("broker: there is no identity %s, without which the credentials cannot be decrypted: say where it is, or bring it back from its backup", v.identity)
	}
	if err != nil {
		return nil, fmt.Errorf("broker: identity: %w", err)
	}
	defer f.Close()
	err = privatefile.Check(f)
	if exposed, ok := errors.AsType[*privatefile.Exposed](err); ok {
		return nil, fmt.Errorf("broker: the identity %s may be read by others than its owner (%s): %s", v.identity, exposed.Who, exposed.Remedy)
	}
	if err != nil {
		return nil, fmt.Errorf("broker: identity %s: %w", v.identity, err)
	}
	ids, err := age.ParseIdentities(f)
	if err != nil {
		return nil, fmt.Errorf("broker: identity %s: %w", v.identity, err)
	}
	return ids, nil
}

// Add keeps a credential for a machine, in place of one it may have, and lets
// it have it.
func (v *Vault) Add(machine string, credential []byte) error {
	if !machineName.MatchString(machine) {
		return fmt.Errorf("machine %q: use 1 to 64 letters, digits, '-', '.' and '_'", machine)
	}
	if len(credential) == 0 || len(credential) > maxCredential {
		return fmt.Errorf("machine %q: a credential of %d bytes; use 1 to %d", machine, len(credential), maxCredential)
	}
	ids, err := v.identities()
	if err != nil {
		return err
	}
	id, ok := ids[0].(*age.HybridIdentity)
	if !ok {
		return fmt.Errorf("broker: the identity %s is not one that this program made", v.identity)
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, id.Recipient())
	if err != nil {
		return fmt.Errorf("machine %q: %w", machine, err)
	}
	_, err = w.Write(credential)
	if err := errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("machine %q: %w", machine, err)
	}
	return v.locked(func(l *ledger) error {
		if err := writeFile(v.path(credentialDir, machine+credentialSuffix), out.Bytes()); err != nil {
			return err
		}
		if _, err := l.append(l.v.done(Added, machine)); err != nil {
			return err
		}
		return remove(v.path(credentialDir, machine+stoppedSuffix))
	})
}

// done is the record of what a person did.
func (v *Vault) done(result, machine string) Record {
	return Record{Time: time.Now(), Machine: machine, Result: result, By: v.Person}
}

const maxCredential = 4096

// Stop has the broker release nothing to the machine any more, or nothing to
// anybody if machine is "". It holds until Add, or Resume, is called. It acts also where
// it cannot be put on record, which is an error nevertheless.
func (v *Vault) Stop(machine string) error {
	if machine == "" {
		return v.stop(v.path(allStopped), machine)
	}
	if !machineName.MatchString(machine) {
		return fmt.Errorf("machine %q: there is none of that name", machine)
	}
	if _, err := os.Stat(v.path(credentialDir, machine+credentialSuffix)); err != nil {
		return fmt.Errorf("machine %q: there is none of that name", machine)
	}
	return v.stop(v.path(credentialDir, machine+stoppedSuffix), machine)
}

func (v *Vault) stop(file, machine string) error {
	if err := writeFile(file, nil); err != nil {
		return err
	}
	err := v.locked(func(l *ledger) error {
		_, err := l.append(v.done(Revoked, machine))
		return err
	})
	if err != nil {
		return fmt.Errorf("nothing is released any more, but that is not on record: %w", err)
	}
	return nil
}

// Resume takes back a Stop of everything.
func (v *Vault) Resume() error {
	return v.locked(func(l *ledger) error {
		if _, err := l.append(v.done(Resumed, "")); err != nil {
			return err
		}
		return remove(v.path(allStopped))
	})
}

// Stopped says whether releases to everybody are stopped.
func (v *Vault) Stopped() (bool, error) {
	stopped, err := exists(v.path(allStopped))
	if err != nil || stopped {
		return stopped, err
	}
	err = v.locked(func(l *ledger) error {
		stopped = l.head.State.AllStopped
		return nil
	})
	return stopped, err
}

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// mayHave says why a machine of that name gets nothing, whichever it is. Errors:
// [*fault.Fault].
func (l *ledger) mayHave(machine string) error {
	v := l.v
	if err := v.has(machine); err != nil {
		return err
	}
	for _, stop := range []string{v.path(allStopped), v.path(credentialDir, machine+stoppedSuffix)} {
		stopped, err := exists(stop)
		if err != nil {
			return err // not knowing is no permission
		}
		if stopped || l.head.State.stopped(machine) {
			return fault.Errorf(fault.BrokerStopped, "releases are stopped")
		}
	}
	return nil
}

// credential gives a machine's credential. Errors: [*fault.Fault].
func (v *Vault) credential(machine string) ([]byte, error) {
	sealed, err := os.ReadFile(v.path(credentialDir, machine+credentialSuffix))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Errorf(fault.BrokerMachine, "there is no credential for a machine of that name")
	}
	if err != nil {
		return nil, err
	}
	ids, err := v.identities()
	if err != nil {
		return nil, err
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), ids...)
	if err != nil {
		return nil, fmt.Errorf("the credential of %q: %w", machine, err)
	}
	credential, err := io.ReadAll(io.LimitReader(r, maxCredential+1))
	if err != nil {
		clear(credential)
		return nil, fmt.Errorf("the credential of %q: %w", machine, err)
	}
	return credential, nil
}

// maxReason bounds a reason in the log, in bytes: evidence that a stranger made
// has a say in it.
const maxReason = 4096

// Log gives the records, oldest first, to the function. The error says in the end which
// lines could not be read. It verifies nothing: that is [VerifyLog].
func (v *Vault) Log(each func(Record) error) error {
	f, err := os.Open(v.path(logFile))
	if err != nil {
		return fmt.Errorf("broker: log: %w", err)
	}
	defer f.Close()
	in := bufio.NewReader(f)
	var damaged error // what can be read is to be seen
	for n := 1; ; n++ {
		line, err := readLine(in)
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return damaged
		}
		var r Record
		bad := err
		if bad == nil {
			bad = openLine(ofRecord, line, nil, &r)
		}
		if bad != nil && damaged == nil {
			damaged = fmt.Errorf("broker: %s line %d is damaged; read it by eye: %w", f.Name(), n, bad)
		}
		if err != nil {
			return damaged
		}
		if bad == nil {
			if err := each(r); err != nil {
				return err
			}
		}
	}
}

// names gives the machines that there is a credential for, in order.
func (v *Vault) names() ([]string, error) {
	entries, err := os.ReadDir(v.path(credentialDir))
	if err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), credentialSuffix); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// Machine is one that the broker keeps a credential for.
type Machine struct {
	Name    string
	Stopped bool
	// Admission says which machine gets it; nil if nobody said so.
	Admission *Admission
}

// Machines gives all, by their names.
func (v *Vault) Machines() (machines []Machine, err error) {
	return machines, v.locked(func(l *ledger) error {
		names, err := v.names()
		if err != nil {
			return err
		}
		for _, name := range names {
			m := Machine{Name: name}
			if a, there := l.head.State.Machines[name]; there {
				m.Admission = &a
			}
			err := l.mayHave(name)
			if m.Stopped = fault.CodeOf(err) == fault.BrokerStopped; err != nil && !m.Stopped {
				return err
			}
			machines = append(machines, m)
		}
		return nil
	})
}

// writeFile writes a file that only its owner may read, whole or not at all,
// durably.
func writeFile(path string, content []byte) error {
	err := privatefile.Replace(path, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
	if err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("broker: %w", err)
	}
	if err := privatefile.SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	return nil
}
