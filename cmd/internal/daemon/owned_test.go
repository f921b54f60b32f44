package daemon_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/appliance/machine/ownership"
	"holdfast/appliance/machine/volume"
	"holdfast/attest"
	"holdfast/attest/owner"
	"holdfast/attest/release"
	"holdfast/attest/simulation"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
	"holdfast/attest/tpm/swtpm"
	"holdfast/web/operation"
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
	s.components, s.cfg.Keys.MaxUnlocked = release1, 7
	refused("another configuration of the publisher alone", "E_SEAL_APPROVAL", "but for PCR 14")
	s.owner.away, s.cfg.Keys.MaxUnlocked = false, 0
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

	// The owner revokes, and never the newest approval that the machine has.
	s.owner.version = 2
	r := s.start()
	if err := r.do("POST", "seal/revoke", operation.Revocation{Below: 3, Approvals: true}, nil); fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), "the newest approval that this machine has is of version 2") {
		t.Errorf("the newest is revoked: %v", err)
	}
	r.ok("POST", "seal/revoke", operation.Revocation{Below: 2, Approvals: true}, nil)
	r.stop()
	s.owner.version = 1
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

// owned is a machine's answer to the one who would give it the PIN.
type owned struct {
	status int
	text   []byte
}

// pin asks on the administrators' listener, as a stranger, in its turn.
func (r *running) pin(method, query string, body []byte) (answer owned) {
	r.s.t.Helper()
	eventually(r.s.t, func() error {
		q, err := http.NewRequestWithContext(r.s.t.Context(), method, "https://"+r.Admin.String()+operation.PINPath+query, bytes.NewReader(body))
		if err != nil {
			return err
		}
		res, err := r.s.client().Do(q)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode == http.StatusTooManyRequests {
			return errors.New(res.Status)
		}
		answer.status = res.StatusCode
		answer.text, err = io.ReadAll(res.Body)
		return err
	})
	return answer
}

// is expects the code, or that it went well if it is empty.
func (o owned) is(t *testing.T, what string, code fault.Code) {
	t.Helper()
	var problem struct {
		Code fault.Code `json:"code"`
	}
	if code == "" {
		if o.status != http.StatusNoContent {
			t.Errorf("%s: %d %s", what, o.status, o.text)
		}
		return
	}
	if err := json.Unmarshal(o.text, &problem); err != nil || problem.Code != code || o.status != code.Entry().Status {
		t.Errorf("%s: %d %s, %v; want %s", what, o.status, o.text, err, code)
	}
}

// challenge asks for one.
func (r *running) challenge() *release.Challenge {
	r.s.t.Helper()
	nonce := make([]byte, 32)
	_, _ = rand.Read(nonce)
	answer := r.pin(http.MethodGet, "?nonce="+hex.EncodeToString(nonce), nil)
	c, e, err := release.ParseChallenge(answer.text)
	if err != nil {
		r.s.t.Fatalf("%d %s: %v", answer.status, answer.text, err)
	}
	if !bytes.Equal(e.Nonce, nonce) || len(e.ReleaseKey) == 0 {
		r.s.t.Errorf("the evidence is for the nonce %x, with a key of %d bytes", e.Nonce, len(e.ReleaseKey))
	}
	return c
}

func (s *site) given(c *release.Challenge, pin, approvals []byte, key ed25519.PrivateKey) []byte {
	s.t.Helper()
	text, err := release.Give(c, pin, approvals, key)
	if err != nil {
		s.t.Fatal(err)
	}
	return text
}

// TestGivePIN: the machine takes its PIN from its owner alone, once, for a challenge of
// its own, while it waits; no page and no command takes it; and it boots on.
func TestGivePIN(t *testing.T) {
	s := newOwnedSite(t)
	s.noPIN = true
	from := len(s.log.String())
	r := s.begin()
	s.logged(from, `again" state=release code=E_SEAL_MISSING reason="no PIN is sealed on this machine yet; give it with holdfast pin give, as the owner of this machine`)
	if b := r.status().Boot; b.Owner != attest.KeyID(ownerKey(1).Public().(ed25519.PublicKey)) {
		t.Errorf("the owner is %q", b.Owner)
	}

	// No other way.
	if err := r.do("POST", "seal", operation.SealRequest{PIN: s.pin}, nil); fault.CodeOf(err) != fault.SealByOwner {
		t.Errorf("holdfast seal: %v", err)
	}

	approvals, err := os.ReadFile(s.inLaunch(ownership.ApprovalsFile))
	if err != nil {
		t.Fatal(err)
	}
	c := r.challenge()
	good := s.given(c, s.pin, nil, ownerKey(1))
	other := newOwnedSite(t) // another machine, of the same owner
	other.noPIN = true
	from = len(other.log.String())
	there := other.begin()
	other.logged(from, `again" state=release code=E_SEAL_MISSING`)
	there.pin(http.MethodPost, "", good).is(t, "relayed to another machine", fault.PINChallenge)
	there.stop()

	changed := *c
	changed.Evidence = bytes.Replace(c.Evidence, []byte(`"software":"`), []byte(`"software":"x`), 1)
	for what, tt := range map[string]struct {
		body []byte
		code fault.Code
	}{
		"nothing":                  {nil, fault.Invalid},
		"rubbish":                  {[]byte("{}"), fault.Invalid},
		"another owner":            {s.given(c, s.pin, nil, ownerKey(2)), fault.PINOwner},
		"a changed envelope":       {bytes.Replace(good, []byte(`"sig":"`), []byte(`"sig":"AA`), 1), fault.PINOwner},
		"evidence that it did not": {s.given(&changed, s.pin, nil, ownerKey(1)), fault.PINChallenge},
		"a ticket of another":      {s.given(&release.Challenge{Evidence: c.Evidence, Ticket: r.challenge().Ticket}, s.pin, nil, ownerKey(1)), fault.PINChallenge},
		"no approvals that can be": {s.given(r.challenge(), s.pin, []byte("{}"), ownerKey(1)), fault.Invalid},
		"a PIN that is none":       {s.given(r.challenge(), nil, nil, ownerKey(1)), fault.Invalid},
		"a PIN that is too long":   {s.given(r.challenge(), make([]byte, seal.MaxSecret+1), nil, ownerKey(1)), fault.Invalid},
		"much":                     {make([]byte, owner.MaxPIN+1), fault.Invalid},
	} {
		r.pin(http.MethodPost, "", tt.body).is(t, what, tt.code)
	}
	// Another's launch signature is none of a PIN, though the key is the right one.
	_, envelope, _ := bytes.Cut(s.owner.document, []byte(`"signature":`))
	r.pin(http.MethodPost, "", bytes.TrimSuffix(bytes.TrimSpace(envelope), []byte("}"))).is(t, "the signature of the launch file", fault.Invalid)

	// A PIN that would not open is not sealed.
	if err := os.Remove(s.inLaunch(ownership.ApprovalsFile)); err != nil {
		t.Fatal(err)
	}
	r.pin(http.MethodPost, "", s.given(r.challenge(), s.pin, nil, ownerKey(1))).is(t, "without approvals", fault.SealApproval)
	if _, err := os.Stat(s.cfg.SealedPIN()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a PIN is sealed: %v", err)
	}

	from = len(s.log.String())
	right := s.given(r.challenge(), s.pin, approvals, ownerKey(1))
	r.pin(http.MethodPost, "", right).is(t, "the owner", "")
	s.logged(from, `msg=boot state=release .*reason="released to release 1.2.0, approved by the owner as release 1.2.0; .*; the owner `+r.status().Boot.Owner+` gave the PIN at`)
	s.logged(from, `msg=serving `)
	r.pin(http.MethodPost, "", right).is(t, "again", fault.PINServes)
	r.pin(http.MethodGet, "?nonce="+strings.Repeat("ab", 32), nil).is(t, "a challenge while it serves", fault.PINServes)
	if err := r.do("POST", "seal", operation.SealRequest{PIN: s.pin}, nil); fault.CodeOf(err) != fault.SealByOwner {
		t.Errorf("holdfast seal while it serves: %v", err)
	}
	if log := s.log.String(); strings.Contains(log, string(s.pin)) {
		t.Error("the log has the PIN")
	}
	r.stop()

	// The next start has it; and what was recorded is of no use there.
	s.asIs, s.noPIN = true, false
	if err := os.Remove(s.cfg.SealedPIN()); err != nil {
		t.Fatal(err)
	}
	from = len(s.log.String())
	r = s.begin()
	s.logged(from, `again" state=release code=E_SEAL_MISSING`)
	r.pin(http.MethodPost, "", right).is(t, "recorded in an earlier boot", fault.PINChallenge)
	r.pin(http.MethodPost, "", s.given(r.challenge(), s.pin, nil, ownerKey(1))).is(t, "given again", "")
	s.logged(from, `msg=serving `)
	r.stop()
	r = s.start()
	r.stop()

	// Capped.
	if err := os.Remove(s.inLaunch(ownership.ApprovalsFile)); err != nil {
		t.Fatal(err)
	}
	from = len(s.log.String())
	r = s.begin()
	s.logged(from, `msg=boot state=locked .*code=E_SEAL_APPROVAL`)
	r.pin(http.MethodPost, "", right).is(t, "capped", fault.PINCapped)
	r.pin(http.MethodGet, "?nonce="+strings.Repeat("ab", 32), nil).is(t, "a challenge of a capped machine", fault.PINCapped)
	r.stop()
}

// TestGivePINWithoutOwner: a machine without an owner takes none; nor does one of an image
// that asks for a launch file and has none take it another way.
func TestGivePINWithoutOwner(t *testing.T) {
	s := newSite(t)
	r := s.start()
	if err := r.do("POST", "seal/revoke", operation.Revocation{Below: 1, Approvals: true}, nil); fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), "no owner") {
		t.Errorf("approvals of nobody are revoked: %v", err)
	}
	r.stop()
	s.noPIN = true
	from := len(s.log.String())
	r = s.begin()
	s.logged(from, `again" state=release code=E_SEAL_MISSING reason="no PIN is sealed on this machine yet; give it with holdfast seal`)
	r.pin(http.MethodGet, "?nonce="+strings.Repeat("ab", 32), nil).is(t, "a challenge", fault.PINOwner)
	r.pin(http.MethodPost, "", []byte("{}")).is(t, "a PIN", fault.PINOwner)
	r.stop()

	s = newOwnedSite(t)
	if err := os.Remove(s.inLaunch(ownership.StoredFile)); err != nil {
		t.Fatal(err)
	}
	from = len(s.log.String())
	r = s.begin()
	s.logged(from, `msg=boot state=locked .*code=E_LAUNCH_MISSING`)
	if err := r.do("POST", "seal", operation.SealRequest{PIN: s.pin}, nil); fault.CodeOf(err) != fault.SealByOwner {
		t.Errorf("holdfast seal: %v", err)
	}
	r.pin(http.MethodPost, "", []byte("{}")).is(t, "a PIN", fault.PINOwner)
	r.stop()
}

// TestOwnersGateOfTheVolume: with a state volume the PIN of an owner needs gate and volume;
// beside another volume it is of no use, and the owner gives it again without a restart.
func TestOwnersGateOfTheVolume(t *testing.T) {
	s := newOwnedSite(t)
	dir, err := os.MkdirTemp("/dev/shm", "holdfast-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s.cfg.State.Volume = filepath.Join(dir, "volume.json")
	id := bytes.Repeat([]byte{8}, 32)
	if err := (volume.Outcome{Opened: true, Authorization: "release 1.2.0", Identity: id}).Write(s.cfg.State.Volume); err != nil {
		t.Fatal(err)
	}
	s.meddle = func(p *simulation.Platform) error { return p.TPM.MeasureFirst(tpm.StateVolume(id)) }
	begin := func(volumeKey byte, code string) (*running, int) {
		t.Helper()
		if err := (volume.Opened{PINKey: bytes.Repeat([]byte{volumeKey}, 32)}).HandOver(s.cfg.State.Volume, os.Getuid()); err != nil {
			t.Fatal(err)
		}
		from := len(s.log.String())
		r := s.begin()
		if code == "" {
			s.logged(from, `msg=serving `)
		} else {
			s.logged(from, `again" state=release code=`+code)
		}
		return r, from
	}
	s.noPIN = true
	r, from := begin(1, "E_SEAL_MISSING")
	r.pin(http.MethodPost, "", s.given(r.challenge(), s.pin, nil, ownerKey(1))).is(t, "first", "")
	s.logged(from, `msg=serving `)
	r.stop()
	text, err := os.ReadFile(s.cfg.SealedPIN())
	if err != nil {
		t.Fatal(err)
	}
	bound, err := seal.ParseBound(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := bound.Object.(*seal.Gated); !ok {
		t.Errorf("the PIN is sealed to the volume without the gate: %T", bound.Object)
	}
	s.asIs, s.noPIN = true, false
	r, _ = begin(1, "")
	r.stop()
	calls := s.shim.AllCalls()
	r, from = begin(2, "E_SEAL_VOLUME")
	if now := s.shim.AllCalls(); now != calls {
		t.Errorf("the HSM was called %d times", now-calls)
	}
	r.pin(http.MethodPost, "", s.given(r.challenge(), s.pin, nil, ownerKey(1))).is(t, "on the new volume", "")
	s.logged(from, `msg=serving `)
	r.stop()
}
