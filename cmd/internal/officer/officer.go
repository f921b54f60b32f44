// Package officer stands for the people around an appliance where there are
// none: for development, tests and benchmarks. It signs the appraisal policy
// and the TPM's authorizations, and gives the PIN, as a company's security
// officers do with holdfast policy and holdfast seal.
package officer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"holdfast/appliance/config"
	"holdfast/appliance/machine/boot/parts"
	"holdfast/attest"
	"holdfast/attest/device"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
	"holdfast/attest/tpm/swtpm"
)

// Officer keeps keys, policy and authorizations in a folder.
type Officer struct {
	dir       string
	policyKey ed25519.PrivateKey
	sealKey   *ecdsa.PrivateKey
}

// The files in the folder; the keys have public ones beside them.
const (
	policyKeyFile      = "policy-key"
	sealKeyFile        = "seal-key"
	policyFile         = "policy.json"
	authorizationsFile = "authorizations.json"
	public             = ".pub"
)

// New makes the folder and the keys, or reads those that there are.
func New(dir string) (*Officer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	o := &Officer{dir: dir}
	policyKey, err := o.key(policyKeyFile, func() (any, any, error) {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		return private, public, err
	})
	if err != nil {
		return nil, err
	}
	sealKey, err := o.key(sealKeyFile, func() (any, any, error) {
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		return private, private.Public(), nil
	})
	if err != nil {
		return nil, err
	}
	var ok1, ok2 bool
	o.policyKey, ok1 = policyKey.(ed25519.PrivateKey)
	o.sealKey, ok2 = sealKey.(*ecdsa.PrivateKey)
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("%s: a key is of another kind than it should be", dir)
	}
	return o, nil
}

func (o *Officer) path(name string) string { return filepath.Join(o.dir, name) }

// key reads a private key, or makes it with its public one.
func (o *Officer) key(name string, generate func() (private, public any, err error)) (any, error) {
	text, err := os.ReadFile(o.path(name))
	if err == nil {
		block, _ := pem.Decode(text)
		if block == nil {
			return nil, fmt.Errorf("%s is not a key in PEM", o.path(name))
		}
		return x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	private, open, err := generate()
	if err != nil {
		return nil, err
	}
	privateDER, err1 := x509.MarshalPKCS8PrivateKey(private)
	publicDER, err2 := x509.MarshalPKIXPublicKey(open)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	err1 = os.WriteFile(o.path(name+public), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER}), 0o644)
	err2 = os.WriteFile(o.path(name), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: privateDER}), 0o600)
	return private, errors.Join(err1, err2)
}

// Configure names the officer's files in the configuration.
func (o *Officer) Configure(c *config.Config) {
	c.Attestation.Policy, c.Attestation.PolicyKey = o.path(policyFile), o.path(policyKeyFile+public)
	if c.Release.Method != config.Broker {
		c.Release.Authorizations, c.Release.SealKey = o.path(authorizationsFile), o.path(sealKeyFile+public)
	}
}

// Policy gives the signed policy, and the key that it is signed by.
func (o *Officer) Policy() (signed []byte, key ed25519.PublicKey, err error) {
	signed, err = os.ReadFile(o.path(policyFile))
	return signed, o.policyKey.Public().(ed25519.PublicKey), err
}

// Authorize signs the policy with the PCR values as its one reference, and has
// TPMs release to them. If they are signed already, nothing changes; or else the
// policy's version is one higher than before.
func (o *Officer) Authorize(policy attest.Policy, name string, pcrs map[int]tpm.Hex) error {
	policy.Version = 1
	if text, key, err := o.Policy(); err == nil {
		before, err := attest.ReadPolicy(text, key)
		if err != nil {
			return fmt.Errorf("%s: %w", o.path(policyFile), err)
		}
		if r := before.TPM.References; len(r) == 1 && before.CheckProof() == nil && maps.EqualFunc(r[0].PCRs, pcrs, func(a, b tpm.Hex) bool { return bytes.Equal(a, b) }) {
			return nil
		}
		policy.Version = before.Version + 1
	}
	policy.TPM.References = []tpm.Reference{{Name: name, PCRs: pcrs}}
	a, err := seal.Authorize(o.sealKey, seal.Authorization{Name: name, Bank: policy.TPM.Bank, PCRs: pcrs, Version: policy.Version})
	if err != nil {
		return err
	}
	authorizations, err := seal.EncodeAuthorizations([]seal.Authorization{*a})
	if err != nil {
		return err
	}
	signed, err := attest.SignPolicy(&policy, o.policyKey)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(o.path(authorizationsFile), authorizations, 0o644), os.WriteFile(o.path(policyFile), signed, 0o644))
}

// Sign signs a policy and authorizations for its references, and writes no file: as those
// that an appliance is given over the network.
func (o *Officer) Sign(policy attest.Policy) (signed, authorizations []byte, err error) {
	all, err := seal.AuthorizeReferences(o.sealKey, policy.TPM, policy.Version)
	if err != nil {
		return nil, nil, err
	}
	if authorizations, err = seal.EncodeAuthorizations(all); err != nil {
		return nil, nil, err
	}
	signed, err = attest.SignPolicy(&policy, o.policyKey)
	return signed, authorizations, err
}

// Authorizations gives what TPMs release to.
func (o *Officer) Authorizations() ([]seal.Authorization, error) {
	text, err := os.ReadFile(o.path(authorizationsFile))
	if err != nil {
		return nil, err
	}
	return seal.ParseAuthorizations(text)
}

// Seal gives the PIN to the TPM, if the file of the sealed PIN is not there.
func (o *Officer) Seal(t seal.TPM, file string, pin []byte) error {
	return o.SealOwned(t, nil, file, pin)
}

// SealOwned is [Officer.Seal] on a machine whose owner has that key; nil if it has none.
func (o *Officer) SealOwned(t seal.TPM, owner *ecdsa.PublicKey, file string, pin []byte) error {
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	blob, err := seal.Signers{Publisher: &o.sealKey.PublicKey, Owner: owner}.Seal(t, seal.Credential, pin)
	if err != nil {
		return err
	}
	text, err := blob.Encode()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o600)
}

// Predict gives the PCR values that the policy requires, of a machine that has
// booted but not measured the parts of the appliance yet.
func Predict(t *tpm.Device, policy tpm.Policy, made []parts.Part) (map[int]tpm.Hex, error) {
	values, err := t.ReadPCRs(policy.Bank, policy.RequiredPCRs)
	if err != nil {
		return nil, err
	}
	var list []tpm.Measurement
	for _, p := range made {
		digest, err := p.Digest()
		if err != nil {
			return nil, err
		}
		list = append(list, tpm.Measurement{PCR: tpm.ApplicationPCR, Name: p.Name, Digest: digest})
	}
	application, err := tpm.Replay(policy.Bank, list)
	if err != nil {
		return nil, err
	}
	pcrs := map[int]tpm.Hex{}
	for _, i := range policy.RequiredPCRs {
		pcrs[i] = values[i]
		if i == tpm.ApplicationPCR {
			pcrs[i] = application
		}
	}
	return pcrs, nil
}

// PowerOn boots a machine that has a TPM and nothing else, its state in the
// folder, for another process to run on. What it boots is authorized, and the
// PIN sealed to it; but not what that process measures, which its flags decide.
func (o *Officer) PowerOn(machine, sealedPIN string, pin []byte, components ...swtpm.Component) (*swtpm.Process, error) {
	p, err := swtpm.PowerOn(machine, components...)
	if err != nil {
		return nil, err
	}
	if err := o.admit(p.Socket, sealedPIN, pin); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

func (o *Officer) admit(socket, sealedPIN string, pin []byte) error {
	t, err := device.OpenTPM(socket)
	if err != nil {
		return err
	}
	defer t.Close()
	policy := attest.DefaultPolicy()
	policy.Require, policy.Unproven = []attest.Technology{attest.TPM}, "development and tests: this machine's TPM is software"
	policy.TPM.RequiredPCRs = []int{4, 7, 11, 12, 13}
	pcrs, err := Predict(t, policy.TPM, nil)
	if err != nil {
		return err
	}
	return errors.Join(o.Authorize(policy, "release 1.2.0", pcrs), o.Seal(t, sealedPIN, pin))
}
