package release

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"holdfast/appliance/fault"
	"holdfast/attest"
	"holdfast/attest/privatefile"
)

// The policy in force is the one that the log names last. The record decides: the file is
// written under another name before it, and gets its own after it, so that a crash leaves
// one policy or the other, and a file that was put there by hand is none.

// SetPolicy installs a signed policy. It takes no policy that [attest.OpenPolicy]
// refuses, none that [attest.SignedID.CheckNext] refuses in place of the one before, and no
// other key than that of the first unless its file was removed.
func (v *Vault) SetPolicy(file []byte, key ed25519.PublicKey) error {
	next, err := attest.OpenPolicy(file, key)
	if err != nil {
		return err
	}
	return v.locked(func(l *ledger) error {
		kept := l.head.State.Policy
		if err := l.checkSigner(kept, key); err != nil {
			return err
		}
		installed := &KeptPolicy{key, next.Name, next.ID()}
		same := kept != nil && bytes.Equal(kept.Key, key)
		if same {
			if err := kept.CheckNext(next.ID()); err != nil {
				return fmt.Errorf("policy: %w", err)
			}
		}
		if err := writeFile(v.path(policyNextFile), file); err != nil {
			return err
		}
		if !same || !kept.Is(next.ID()) {
			r := v.done(Installed, "")
			r.Policy, r.PolicyVersion, r.Unproven = installed, next.Version, next.Forced()
			if _, err := l.append(r); err != nil {
				return err
			}
		}
		if err := writeFile(v.path(policyKeyFile), key); err != nil {
			return err
		}
		return v.settlePolicy()
	})
}

// checkSigner says why a policy may not be of this signer.
func (l *ledger) checkSigner(kept *KeptPolicy, key ed25519.PublicKey) error {
	file := l.v.path(policyKeyFile)
	old, err := os.ReadFile(file)
	if kept == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("broker: policy key: %w", err)
	}
	if !bytes.Equal(old, key) {
		return fmt.Errorf("policy: it is signed by key %s, and the broker's is another; remove %s to change that", attest.KeyID(key), file)
	}
	return nil
}

// settlePolicy gives the file of the policy that is on record its name.
func (v *Vault) settlePolicy() error {
	if err := os.Rename(v.path(policyNextFile), v.path(policyFile)); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	return privatefile.SyncDir(v.dir)
}

// Policy gives the policy in force. Errors: [fs.ErrNotExist] if there is none;
// [attest.ErrUnproven] if it does not prove the code, as one that was installed
// before that was asked for; fault.BrokerPolicyVersion if the files are not those that were
// installed; fault.BrokerLog.
func (v *Vault) Policy() (policy *attest.SignedPolicy, err error) {
	return policy, v.locked(func(l *ledger) error {
		policy, err = l.policy()
		return err
	})
}

func (l *ledger) policy() (*attest.SignedPolicy, error) {
	kept := l.head.State.Policy
	if kept == nil {
		return nil, fmt.Errorf("broker: policy: %w", fs.ErrNotExist)
	}
	key, err := os.ReadFile(l.v.path(policyKeyFile))
	if err != nil {
		return nil, fmt.Errorf("broker: policy key: %w", err)
	}
	if !bytes.Equal(key, kept.Key) {
		return nil, fault.Errorf(fault.BrokerPolicyVersion, "%s is not the key that policies are signed by; install the policy again with holdfast broker policy", l.v.path(policyKeyFile))
	}
	found, next := l.v.readPolicy(policyFile, key), l.v.readPolicy(policyNextFile, key)
	if is(next, kept) && !is(found, kept) { // a crash came between the record and the file
		if err := l.v.settlePolicy(); err != nil {
			return nil, err
		}
		found = next
	}
	switch {
	case errors.Is(found.err, fs.ErrNotExist):
		return nil, fmt.Errorf("broker: policy: %w", found.err)
	case found.err != nil:
		return nil, fault.Wrapf(fault.BrokerPolicyVersion, found.err, "the policy that was installed, version %d with the SHA-256 %x, is not in its file; install it again with holdfast broker policy", kept.Version, kept.Digest)
	case !is(found, kept):
		return nil, fault.Errorf(fault.BrokerPolicyVersion, "the policy in the folder has version %d and the SHA-256 %x, and the one that was installed has version %d and %x; install the right one with holdfast broker policy",
			found.Version, found.Digest, kept.Version, kept.Digest)
	}
	return attest.OpenPolicy(found.Envelope, key)
}

// readable is a policy's file, if it can be read.
type readable struct {
	*attest.SignedPolicy
	err error
}

func is(r readable, kept *KeptPolicy) bool { return r.err == nil && kept.Is(r.ID()) }

func (v *Vault) readPolicy(name string, key ed25519.PublicKey) readable {
	file, err := os.ReadFile(v.path(name))
	if err != nil {
		return readable{err: err}
	}
	p, err := attest.ReadPolicy(file, key) // one that is refused now can be named, and replaced
	return readable{p, err}
}

// unrecordedPolicy is the policy of a folder whose log names none; nil if there is none.
func (v *Vault) unrecordedPolicy() (*KeptPolicy, error) {
	key, err := os.ReadFile(v.path(policyKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil, errors.Join(err, fmt.Errorf("broker: %s is damaged: remove it, and install a policy later", v.path(policyKeyFile)))
	}
	p := v.readPolicy(policyFile, key)
	if errors.Is(p.err, fs.ErrNotExist) {
		return nil, nil
	}
	if p.err != nil {
		return nil, fmt.Errorf("broker: the policy cannot be read: remove %s and %s, and install a policy later: %w", v.path(policyFile), v.path(policyKeyFile), p.err)
	}
	return &KeptPolicy{key, p.Name, p.ID()}, nil
}
