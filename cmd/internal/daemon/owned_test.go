package daemon_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/appliance/config"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/appliance/machine/ownership"
	"holdfast/attest/owner"
	"holdfast/attest/simulation"
	"holdfast/attest/tpm/seal"
	"holdfast/attest/tpm/swtpm"
)

// machineOwner is who owns a site's machine. A nil one is nobody.
type machineOwner struct {
	seal *ecdsa.PrivateKey
	// document is the launch document that the owner approves machines with; none without.
	document []byte
	// version is that of the approvals, 1 if it is zero.
	version uint64
	// away does not approve what the publisher has authorized.
	away bool
}

func newSealKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newMachineOwner(t *testing.T) *machineOwner {
	return &machineOwner{seal: newSealKey(t)}
}

func (o *machineOwner) public() *ecdsa.PublicKey {
	if o == nil {
		return nil
	}
	return &o.seal.PublicKey
}

// approve puts the owner's approvals of all that the officer has authorized beside the
// launch file.
func (o *machineOwner) approve(s *site) error {
	if o == nil || o.document == nil || o.away {
		return nil
	}
	authorizations, err := s.officer.Authorizations()
	if err != nil {
		return err
	}
	l, _, err := owner.ParseDocument(o.document)
	if err != nil {
		return err
	}
	approvals, err := seal.ApproveRelease(o.seal, authorizations, l.Digest, max(o.version, 1))
	if err != nil {
		return err
	}
	text, err := seal.EncodeAuthorizations(approvals)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.cfg.Launch.Dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.cfg.Launch.Dir, ownership.ApprovalsFile), text, 0o600)
}

// newOwnedSite is a site of an image for everybody, whose machine has an owner.
func newOwnedSite(t *testing.T) *site {
	t.Helper()
	s := newSite(t)
	s.owner = newMachineOwner(t)
	s.launch = config.HSM{Module: filepath.Base(s.cfg.HSM.Module), TokenLabel: s.cfg.HSM.TokenLabel}
	s.cfg.Launch = config.Launch{Required: true, Dir: filepath.Join(t.TempDir(), "launch"), Modules: filepath.Dir(s.cfg.HSM.Module)}
	s.cfg.HSM = config.HSM{}
	if err := os.MkdirAll(s.cfg.Launch.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s.launchVersion(1)
	return s
}

// launchVersion has the owner sign that version of the launch file, and put it in its place.
func (s *site) launchVersion(version uint64) {
	s.t.Helper()
	s.owner.document = s.launchDocument(s.launch.Module, s.launch.TokenLabel, version, ownerKey(1))
	s.replace(s.inLaunch(ownership.StoredFile), s.owner.document)
}

func (s *site) inLaunch(name string) string { return filepath.Join(s.cfg.Launch.Dir, name) }

// TestOwnersGate: a machine with an owner gives the PIN to what publisher and owner have
// signed, and to nothing else; and no release makes it necessary to seal the PIN again.
func TestOwnersGate(t *testing.T) {
	s := newOwnedSite(t)
	s.start().stop()
	sealed, err := os.ReadFile(s.cfg.SealedPIN())
	if err != nil {
		t.Fatal(err)
	}
	if object, err := seal.ParseObject(sealed); err != nil {
		t.Error(err)
	} else if _, ok := object.(*seal.Gated); !ok {
		t.Errorf("the PIN is sealed without the gate: %T", object)
	}
	s.samePIN = true
	opens := func(what string) {
		t.Helper()
		from := len(s.log.String())
		r := s.begin()
		s.logged(from, `msg=boot state=release .*code="" reason="released to release 1.2.0, approved by the owner as release 1.2.0; `)
		s.logged(from, `msg=serving `)
		r.stop()
		if now, err := os.ReadFile(s.cfg.SealedPIN()); err != nil || !bytes.Equal(now, sealed) {
			t.Errorf("%s: the PIN was sealed again: %v", what, err)
		}
	}
	refused := func(what, code, reason string) {
		t.Helper()
		calls, from := s.shim.AllCalls(), len(s.log.String())
		r := s.begin()
		s.logged(from, `(msg=boot state=locked|again" state=release) .*code=`+code)
		if b := r.status().Boot; b.State != progress.Locked && b.State != progress.Release || b.Code != code || !strings.Contains(b.Reason, reason) {
			t.Errorf("%s: the boot is %s %s: %s", what, b.State, b.Code, b.Reason)
		}
		r.stop()
		if now := s.shim.AllCalls(); now != calls {
			t.Errorf("%s: the HSM was called %d times", what, now-calls)
		}
	}
	opens("as it was")

	// The launch file.
	s.asIs = true
	s.launchVersion(2)
	refused("a launch file that is not approved", "E_SEAL_APPROVAL", "but for PCR 15")
	good := bytes.Clone(s.owner.document)
	s.replace(s.inLaunch(ownership.StoredFile), bytes.Replace(good, []byte(`"launch":"H4s`), []byte(`"launch":"H4t`), 1))
	refused("a stored launch file that was changed", "E_LAUNCH_FILE", "")
	s.replace(s.inLaunch(ownership.StoredFile), s.launchDocument(s.launch.Module, s.launch.TokenLabel, 9, ownerKey(2)))
	refused("another owner", "E_LAUNCH_OWNER", "")
	s.replace(s.inLaunch(ownership.StoredFile), good)
	s.asIs = false
	opens("approved")

	// Another release.
	release1 := s.components
	s.owner.away, s.components = true, []swtpm.Component{{Name: ".linux", Content: []byte("an evil kernel")}}
	refused("a release of the publisher alone", "E_SEAL_APPROVAL", "the owner has not authorized this")
	s.owner.away, s.components = false, release1
	opens("what both have signed")
	before, err := os.ReadFile(s.cfg.Release.Authorizations)
	if err != nil {
		t.Fatal(err)
	}
	s.components = []swtpm.Component{{Name: ".linux", Content: []byte("kernel 2")}}
	opens("the next release of both")
	after, err := os.ReadFile(s.cfg.Release.Authorizations)
	if err != nil {
		t.Fatal(err)
	}
	s.asIs = true
	replaceContent(t, s.cfg.Release.Authorizations, before)
	refused("an approval of the owner alone", "E_SEAL_PCRS", "the publisher has not authorized this")
	replaceContent(t, s.cfg.Release.Authorizations, after)
	if err := os.Remove(s.inLaunch(ownership.ApprovalsFile)); err != nil {
		t.Fatal(err)
	}
	refused("no approvals at all", "E_SEAL_APPROVAL", "the owner has not authorized this")
	replaceContent(t, s.inLaunch(ownership.ApprovalsFile), []byte("{"))
	refused("approvals that cannot be read", "E_SEAL_FILE", "approvals.json cannot be used")
	s.asIs = false

	// The owner revokes.
	s.meddle = func(p *simulation.Platform) error { return seal.RevokeApprovals(p.TPM, 2) }
	refused("a revoked approval", "E_SEAL_REVOKED", "all below 2 are revoked")
	s.owner.version = 2
	opens("an approval of a higher version")

	// The owner's key is exchanged.
	former := s.owner.seal
	s.owner.seal = newSealKey(t)
	s.launchVersion(3)
	refused("another seal key without a succession", "E_SEAL_OWNER", "no succession leads")
	succession, err := seal.Succeed(former, s.owner.public(), seal.Credential)
	if err != nil {
		t.Fatal(err)
	}
	text, err := seal.EncodeSuccessions([]seal.Succession{*succession})
	if err != nil {
		t.Fatal(err)
	}
	replaceContent(t, s.inLaunch(ownership.SuccessionsFile), text)
	opens("with a succession")

	// What was sealed without the gate.
	s.asIs = true
	s.meddle = func(p *simulation.Platform) error {
		return errors.Join(os.Remove(s.cfg.SealedPIN()), s.officer.Seal(p.TPM, s.cfg.SealedPIN(), s.pin))
	}
	refused("a PIN that was sealed without the gate", "E_SEAL_OWNER", "the publisher alone could open it")
	s.meddle = nil
	replaceContent(t, s.cfg.SealedPIN(), sealed)
	opens("the right one again")
}
