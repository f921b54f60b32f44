package release

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast/appliance/fault"
	"holdfast/attest"
)

// The files of what the broker has of its own besides the policy.
const (
	revocationsDir    = "revocations"
	revocationsSuffix = ".crl"
	recoveryFile      = "tcb.json"
)

// maxLists bounds how many lists of revocations a broker keeps.
const maxLists = 32

// List is a list of revocations that the broker keeps.
type List struct {
	// Issuer is who signed it; ThisUpdate is when, NextUpdate until when it is in force,
	// zero if it does not say.
	Issuer     string    `json:"issuer"`
	ThisUpdate time.Time `json:"this_update"`
	NextUpdate time.Time `json:"next_update,omitzero"`
	// Revoked is how many certificates it names.
	Revoked int `json:"revoked"`

	der []byte
	crl *x509.RevocationList
}

// AddRevocations keeps a list of revocations (DER). It takes the place of older ones of
// its issuer that revoke nothing else. Nil roots trust the makers of processors.
func (v *Vault) AddRevocations(der []byte, roots *attest.Roots) (*List, error) {
	crl, err := attest.ReadRevocations(der, roots)
	if err != nil {
		return nil, err
	}
	next := newList(der, crl)
	kept, err := v.lists()
	if err != nil {
		return nil, err
	}
	var old []string
	for _, name := range slices.Sorted(maps.Keys(kept)) {
		if kept[name].replacedBy(next) {
			old = append(old, name)
		}
	}
	if len(kept)-len(old) >= maxLists {
		return nil, fmt.Errorf("broker: it keeps %d lists of revocations already: remove those that are out of use from %s", maxLists, v.path(revocationsDir))
	}
	if err := os.MkdirAll(v.path(revocationsDir), 0o700); err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	sum := sha256.Sum256(der)
	name := hex.EncodeToString(sum[:]) + revocationsSuffix
	if err := writeFile(v.path(revocationsDir, name), der); err != nil {
		return nil, err
	}
	for _, replaced := range old {
		if replaced == name {
			continue
		}
		if err := remove(v.path(revocationsDir, replaced)); err != nil {
			return nil, err
		}
	}
	return &next, nil
}

func newList(der []byte, crl *x509.RevocationList) List {
	return List{Issuer: crl.Issuer.CommonName, ThisUpdate: crl.ThisUpdate.UTC(), NextUpdate: crl.NextUpdate.UTC(), Revoked: len(crl.RevokedCertificateEntries), der: der, crl: crl}
}

// replacedBy says whether a newer list of the issuer revokes all that this one does.
func (l List) replacedBy(next List) bool {
	if !bytes.Equal(l.crl.RawIssuer, next.crl.RawIssuer) || next.ThisUpdate.Before(l.ThisUpdate) {
		return false
	}
	for _, r := range l.crl.RevokedCertificateEntries {
		if !slices.ContainsFunc(next.crl.RevokedCertificateEntries, func(n x509.RevocationListEntry) bool { return n.SerialNumber.Cmp(r.SerialNumber) == 0 }) {
			return false
		}
	}
	return true
}

// Revocations gives the lists of revocations that the broker has, the newest first.
// Errors: fault.RevocationsFile.
func (v *Vault) Revocations() ([]List, error) {
	kept, err := v.lists()
	if err != nil {
		return nil, err
	}
	return slices.SortedFunc(maps.Values(kept), func(a, b List) int { return b.ThisUpdate.Compare(a.ThisUpdate) }), nil
}

// lists gives them by the names of their files. What is not one fails: it may be one that
// revokes.
func (v *Vault) lists() (map[string]List, error) {
	entries, err := os.ReadDir(v.path(revocationsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Wrapf(fault.RevocationsFile, err, "the broker's lists of revocations cannot be read")
	}
	lists := map[string]List{}
	for _, e := range entries {
		path := v.path(revocationsDir, e.Name())
		if !strings.HasSuffix(e.Name(), revocationsSuffix) {
			continue // one that was not written to the end
		}
		der, err := readAtMost(path, attest.MaxRevocations)
		if err != nil {
			return nil, fault.Wrapf(fault.RevocationsFile, err, "a list of revocations cannot be read")
		}
		crl, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fault.Wrapf(fault.RevocationsFile, err, "the list of revocations %s is damaged; put it back, or remove it and give it again with holdfast broker crl", filepath.Base(path))
		}
		lists[e.Name()] = newList(der, crl)
	}
	return lists, nil
}

func readAtMost(path string, most int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err == nil && len(b) > most {
		err = fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return b, err
}

// SetRecovery installs a TCB recovery file. It must be signed by the signer of the
// broker's policy, and takes the place of the one that is there by the rule for policies
// ([attest.SignedID.CheckNext]).
func (v *Vault) SetRecovery(file []byte) (*attest.SignedRecovery, error) {
	key, err := v.policyKey()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("broker: there is no policy yet, whose signer must have signed the TCB recovery file: install one with holdfast broker policy")
	}
	if err != nil {
		return nil, err
	}
	next, err := attest.OpenRecovery(file, key)
	if err != nil {
		return nil, err
	}
	now, err := v.Recovery()
	if err != nil {
		return nil, err
	}
	if now != nil {
		if err := now.ID().CheckNext(next.ID()); err != nil {
			return nil, fmt.Errorf("TCB recovery: %w", err)
		}
	}
	return next, writeFile(v.path(recoveryFile), file)
}

// Recovery gives the TCB recovery file; nil if there is none. Errors:
// fault.RecoveryFile.
func (v *Vault) Recovery() (*attest.SignedRecovery, error) {
	file, err := readAtMost(v.path(recoveryFile), attest.MaxPolicy)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Wrapf(fault.RecoveryFile, err, "the TCB recovery file cannot be read")
	}
	key, err := v.policyKey()
	if err != nil {
		return nil, fault.Wrapf(fault.RecoveryFile, err, "the signer of the TCB recovery file is not known")
	}
	r, err := attest.OpenRecovery(file, key)
	if err != nil {
		return nil, fault.Wrapf(fault.RecoveryFile, err, "the broker's %s", recoveryFile)
	}
	return r, nil
}

// endorsements gives all that the broker has of its own. Errors: [*fault.Fault].
func (v *Vault) endorsements() (attest.Endorsements, error) {
	lists, err := v.Revocations()
	if err != nil {
		return attest.Endorsements{}, err
	}
	var e attest.Endorsements
	for _, l := range lists {
		e.Revocations = append(e.Revocations, l.der)
	}
	e.Recovery, err = v.Recovery()
	return e, err
}

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
