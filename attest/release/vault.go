package release

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
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
	"github.com/go-json-experiment/json"

	"holdfast/appliance/fault"
	"holdfast/attest"
	"holdfast/attest/privatefile"
)

// Vault is the broker's folder: credentials, each encrypted with age; the
// appraisal policy; who was stopped; the log of releases. Every command reads
// the folder anew, so that what an administrator changes acts at once.
type Vault struct {
	dir      string
	identity string // file of the age identity

	mu sync.Mutex // over the log
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
	policyKeyFile    = "policy-key"
	logFile          = "releases.jsonl"
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
	return v, nil
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
	if err := writeFile(v.path(credentialDir, machine+credentialSuffix), out.Bytes()); err != nil {
		return err
	}
	return remove(v.path(credentialDir, machine+stoppedSuffix))
}

const maxCredential = 4096

// Stop has the broker release nothing to the machine any more, or nothing to
// anybody if machine is "". It holds until Add, or Resume, is called.
func (v *Vault) Stop(machine string) error {
	if machine == "" {
		return writeFile(v.path(allStopped), nil)
	}
	if !machineName.MatchString(machine) {
		return fmt.Errorf("machine %q: there is none of that name", machine)
	}
	if _, err := os.Stat(v.path(credentialDir, machine+credentialSuffix)); err != nil {
		return fmt.Errorf("machine %q: there is none of that name", machine)
	}
	return writeFile(v.path(credentialDir, machine+stoppedSuffix), nil)
}

// Resume takes back a Stop of everything.
func (v *Vault) Resume() error { return remove(v.path(allStopped)) }

// Stopped says whether releases to everybody are stopped.
func (v *Vault) Stopped() (bool, error) { return exists(v.path(allStopped)) }

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// credential gives a machine's credential. Errors: [*fault.Fault].
func (v *Vault) credential(machine string) ([]byte, error) {
	if !machineName.MatchString(machine) {
		return nil, fault.Errorf(fault.BrokerMachine, "there is no credential for a machine of that name")
	}
	for _, stop := range []string{v.path(allStopped), v.path(credentialDir, machine+stoppedSuffix)} {
		stopped, err := exists(stop)
		if err != nil {
			return nil, err // not knowing is no permission
		}
		if stopped {
			return nil, fault.Errorf(fault.BrokerStopped, "releases are stopped")
		}
	}
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

// SetPolicy installs a signed policy. It takes no policy that [attest.OpenPolicy]
// refuses, no lower version in place of a higher one, and no other key than that of
// the first.
func (v *Vault) SetPolicy(file []byte, key ed25519.PublicKey) error {
	next, err := attest.OpenPolicy(file, key)
	if err != nil {
		return err
	}
	now, err := v.policy(attest.ReadPolicy) // one that is refused now can be replaced
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		if old, err := os.ReadFile(v.path(policyKeyFile)); err != nil || !bytes.Equal(old, key) {
			return errors.Join(err, fmt.Errorf("policy: it is signed by key %s, and the broker's is another; remove %s to change that", attest.KeyID(key), v.path(policyKeyFile)))
		}
		if next.Version < now.Version {
			return fmt.Errorf("policy: version %d is older than %d, which the broker has", next.Version, now.Version)
		}
	}
	if err := writeFile(v.path(policyKeyFile), key); err != nil {
		return err
	}
	return writeFile(v.path(policyFile), file)
}

// Policy gives the policy in force. Errors: [fs.ErrNotExist] if there is none;
// [attest.ErrUnproven] if it does not prove the code, as one that was installed
// before that was asked for.
func (v *Vault) Policy() (*attest.SignedPolicy, error) { return v.policy(attest.OpenPolicy) }

// policyKey gives the key of the policy's signer. Errors: [fs.ErrNotExist] without a
// policy.
func (v *Vault) policyKey() (ed25519.PublicKey, error) {
	key, err := os.ReadFile(v.path(policyKeyFile))
	if err != nil {
		return nil, fmt.Errorf("broker: policy key: %w", err)
	}
	if len(key) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("broker: %s is damaged", v.path(policyKeyFile))
	}
	return key, nil
}

// policy gives the policy that open takes.
func (v *Vault) policy(open func([]byte, ed25519.PublicKey) (*attest.SignedPolicy, error)) (*attest.SignedPolicy, error) {
	key, err := v.policyKey()
	if err != nil {
		return nil, err
	}
	file, err := os.ReadFile(v.path(policyFile))
	if err != nil {
		return nil, fmt.Errorf("broker: policy: %w", err)
	}
	return open(file, key)
}

// Record is one line of the log: who asked, and what came of it.
type Record struct {
	Time    time.Time `json:"time"`
	Machine string    `json:"machine"`
	Remote  string    `json:"remote"`
	// Result is released or refused; Code and Reason say why not.
	Result string `json:"result"`
	Code   string `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
	// EvidenceDigest is the SHA-256 of the evidence file, in hexadecimal.
	EvidenceDigest string `json:"evidence_sha256,omitempty"`
	PolicyVersion  uint64 `json:"policy_version,omitempty"`
	// Unproven says why the policy was used though it does not prove the code; empty
	// if it does.
	attest.Unproven
}

// The results in the log.
const (
	Released = "released"
	Refused  = "refused"
)

// maxReason bounds a reason in the log, in bytes: evidence that a stranger made
// has a say in it.
const maxReason = 4096

// log writes a record, durably.
func (v *Vault) log(r Record) error {
	r.Reason = strings.ToValidUTF8(r.Reason[:min(len(r.Reason), maxReason)], "")
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	f, err := os.OpenFile(v.path(logFile), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}

// Log gives the records, oldest first, to the function. A line that is damaged
// is left out, and the error says so in the end.
func (v *Vault) Log(each func(Record) error) error {
	f, err := os.Open(v.path(logFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("broker: log: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	var damaged error // a crash leaves half a line; the others are to be seen
	for n := 1; lines.Scan(); n++ {
		var r Record
		if err := decode(lines.Bytes(), &r); err != nil {
			if damaged == nil {
				damaged = fmt.Errorf("broker: %s line %d is damaged; read it by eye: %w", f.Name(), n, err)
			}
			continue
		}
		if err := each(r); err != nil {
			return err
		}
	}
	return errors.Join(damaged, lines.Err())
}

// Machines gives the names, and whether releases to them are stopped.
func (v *Vault) Machines() (map[string]bool, error) {
	entries, err := os.ReadDir(v.path(credentialDir))
	if err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	all, err := v.Stopped()
	if err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	machines := map[string]bool{}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), credentialSuffix); ok {
			stopped, err := exists(v.path(credentialDir, name+stoppedSuffix))
			if err != nil {
				return nil, fmt.Errorf("broker: %w", err)
			}
			machines[name] = stopped || all
		}
	}
	return machines, nil
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
