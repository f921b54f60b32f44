package daemon_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/parts"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/appliance/machine/policies"
	"holdfast/attest"
	"holdfast/attest/simulation"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/swtpm"
	"holdfast/cmd/internal/officer"
	"holdfast/web/operation"
)

// signedPolicy is the image's policy.
func (s *site) signedPolicy() *attest.SignedPolicy {
	s.t.Helper()
	text, err := os.ReadFile(s.cfg.Attestation.Policy)
	if err != nil {
		s.t.Fatal(err)
	}
	signed, err := attest.ReadPolicy(text, s.policyKey())
	if err != nil {
		s.t.Fatal(err)
	}
	return signed
}

// predicted are the PCRs of a machine that boots the components.
func (s *site) predicted(policy attest.Policy, components ...swtpm.Component) map[int]tpm.Hex {
	s.t.Helper()
	dir, err := os.MkdirTemp("", "holdfast-machine-") // a socket's path must be short
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p, err := simulation.Boot(dir, nil, components...)
	if err != nil {
		s.t.Fatal(err)
	}
	defer p.Close()
	measured, err1 := parts.OfThisProcess(&s.cfg)
	pcrs, err2 := officer.Predict(p.TPM, policy.TPM, measured)
	if err := errors.Join(err1, err2); err != nil {
		s.t.Fatal(err)
	}
	return pcrs
}

// next is the image's policy with a change and that version, signed, with authorizations.
func (s *site) next(version uint64, change func(*attest.Policy)) operation.PolicyFiles {
	s.t.Helper()
	return s.nextBy(s.officer, version, change)
}

// nextBy is next, signed by these officers.
func (s *site) nextBy(o *officer.Officer, version uint64, change func(*attest.Policy)) operation.PolicyFiles {
	s.t.Helper()
	p := s.signedPolicy().Policy
	p.Version, p.TPM.References = version, slices.Clone(p.TPM.References)
	if change != nil {
		change(&p)
	}
	signed, authorizations, err := o.Sign(p)
	if err != nil {
		s.t.Fatal(err)
	}
	return operation.PolicyFiles{Policy: string(signed), Authorizations: string(authorizations)}
}

func (r *running) appraisalPolicy() (p operation.AppraisalPolicy) {
	r.s.t.Helper()
	r.ok("GET", "policy", nil, &p)
	return p
}

// TestInstallPolicy: the next signed policy comes in over the network and is in force at
// once and after a restart; with it the next release starts, whose disk nobody has changed.
// What is older, another one of the same version, a stranger's or proves too little is
// refused before anything is written.
func TestInstallPolicy(t *testing.T) {
	s := newSite(t)
	r := s.start()
	if p := r.appraisalPolicy(); p.Version != 1 || p.Installed || !p.InForce || p.Ignored != "" || len(p.Admits) == 0 {
		t.Errorf("at first: %+v", p)
	}
	folder := s.cfg.Policies()

	nextKernel := swtpm.Component{Name: ".linux", Content: []byte("the next kernel")}
	good := s.next(2, func(p *attest.Policy) {
		p.Name = "both releases"
		p.TPM.References = append(p.TPM.References, tpm.Reference{Name: "release 1.3.0", PCRs: s.predicted(*p, nextKernel)})
	})
	for name, c := range map[string]struct {
		code  fault.Code
		files operation.PolicyFiles
	}{
		"another of the version": {fault.PolicyVersion, s.next(1, func(p *attest.Policy) { p.Name = "another" })},
		"a stranger's":           {fault.PolicyFile, s.nextBy(stranger(t), 2, nil)},
		"none":                   {fault.PolicyFile, operation.PolicyFiles{Policy: "{}"}},
		"it proves too little":   {fault.PolicyUnproven, operation.PolicyFiles{Policy: unproven(t, s, 2)}},
		"another's authorizations": {fault.SealSignature, operation.PolicyFiles{Policy: good.Policy,
			Authorizations: s.nextBy(stranger(t), 2, nil).Authorizations}},
		"no authorizations": {fault.SealFile, operation.PolicyFiles{Policy: good.Policy, Authorizations: "{}"}},
		"no owner":          {fault.Conflict, operation.PolicyFiles{Policy: good.Policy, Approvals: good.Authorizations}},
	} {
		if err := r.do("PUT", "policy", c.files, nil); fault.CodeOf(err) != c.code {
			t.Errorf("%s: %v, not %s", name, err, c.code)
		}
	}
	if _, err := os.Stat(folder); err == nil {
		t.Errorf("what was refused was written to %s", folder)
	}

	r.ok("PUT", "policy", good, nil)
	eventually(t, func() error {
		if p := r.appraisalPolicy(); !p.InForce || !p.Installed || p.Version != 2 || p.Authorizations != 4 {
			return errors.New("the installed policy is not in force")
		}
		return nil
	})
	if err := r.do("PUT", "policy", good, nil); err != nil {
		t.Errorf("the same again: %v", err)
	}
	for name, files := range map[string]operation.PolicyFiles{"older": s.next(1, nil), "another of version 2": s.next(2, nil)} {
		if err := r.do("PUT", "policy", files, nil); fault.CodeOf(err) != fault.PolicyVersion {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.stop()

	s.asIs = true // nobody signs or seals anything on the machine
	s.components = []swtpm.Component{nextKernel}
	r = s.start()
	if a := r.status().Boot.Attestation; a.Version != 2 || a.Reference != "matches release 1.3.0" {
		t.Errorf("the next release: %+v", a)
	}
	var found operation.Records
	r.ok("GET", "audit/records?kind=admin", nil, &found)
	if n := len(found.Records); n == 0 || !slices.ContainsFunc(found.Records, func(rec audit.NodeRecord) bool {
		return rec.Operation == "PUT policy" && rec.Result == audit.Allowed && strings.Contains(string(rec.After), "both releases") && strings.Contains(string(rec.Before), "release")
	}) {
		t.Errorf("the record: %d: %+v", n, found.Records)
	}
	r.stop()
}

// TestInstalledPolicyOfTheMachine: what lies in the folder and does not verify is told, and
// the image's policy goes on, unless this machine had a newer one.
func TestInstalledPolicyOfTheMachine(t *testing.T) {
	s := newSite(t)
	s.start().stop()
	s.asIs = true
	folder := s.cfg.Policies()
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	policy, authorizations := filepath.Join(folder, policies.PolicyFile), filepath.Join(folder, policies.AuthorizationsFile)
	good := s.next(2, nil)
	told := func(name, path string, content []byte) {
		t.Helper()
		s.replace(path, content)
		r := s.start()
		var found bool
		for _, step := range r.status().Boot.Steps {
			found = found || step.Code == string(fault.PolicyStored) && strings.Contains(step.Reason, path)
		}
		if p := r.appraisalPolicy(); !found || p.Installed || p.Version != 1 || !p.InForce || !strings.Contains(p.Ignored, path) {
			t.Errorf("%s: told %v, %+v", name, found, p)
		}
		r.stop()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	told("damaged", policy, []byte(good.Policy[:len(good.Policy)/2]))
	told("a stranger's", policy, []byte(s.nextBy(stranger(t), 2, nil).Policy))
	told("it proves too little", policy, []byte(unproven(t, s, 2)))
	told("another one of the version", policy, []byte(s.next(1, func(p *attest.Policy) { p.Name = "another" }).Policy))
	told("a stranger's authorizations", authorizations, []byte(s.nextBy(stranger(t), 2, nil).Authorizations))
	told("damaged authorizations", authorizations, bytes.Repeat([]byte("x"), 100))

	// Once the newer one was in force, the older one of the image is not enough.
	s.replace(policy, []byte(good.Policy))
	r := s.start()
	if p := r.appraisalPolicy(); !p.Installed || p.Version != 2 || !p.InForce {
		t.Errorf("put there by hand: %+v", p)
	}
	r.stop()
	s.replace(policy, []byte("damaged"))
	from := len(s.log.String())
	r = s.begin()
	s.logged(from, `msg=boot state=locked .*code=E_POLICY_VERSION`)
	// A locked machine takes the next one.
	r.ok("PUT", "policy", s.next(3, nil), nil)
	r.stop()
	r = s.start()
	if b := r.status().Boot; b.State != progress.Serving || b.Attestation.Version != 3 {
		t.Errorf("after the next one: %+v", b)
	}
	r.stop()
}

// stranger is another officer.
func stranger(t *testing.T) *officer.Officer {
	t.Helper()
	o, err := officer.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// unproven is a policy that proves too little, signed as programs did that signed any.
func unproven(t *testing.T, s *site, version uint64) string {
	t.Helper()
	p := s.signedPolicy().Policy
	p.Version, p.TPM.References = version, nil
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(filepath.Dir(s.cfg.Attestation.Policy), "policy-key"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(key)
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	const payloadType = "application/vnd.holdfast.policy.v1+json"
	envelope, err := json.Marshal(dsse.Envelope{PayloadType: payloadType, Payload: base64.StdEncoding.EncodeToString(text),
		Signatures: []dsse.Signature{{Sig: base64.StdEncoding.EncodeToString(ed25519.Sign(private.(ed25519.PrivateKey), dsse.PAE(payloadType, text)))}}})
	if err != nil {
		t.Fatal(err)
	}
	return string(envelope)
}
