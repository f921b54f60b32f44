package daemon_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/appliance/config"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/appliance/machine/ownership"
	"holdfast/attest"
	"holdfast/attest/owner"
	"holdfast/attest/simulation"
	"holdfast/attest/tpm"
	"holdfast/web/operation"
)

func ownerKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

// launchText is a launch file of an owner, which selects the site's token.
func (s *site) launchText(module, token string, version uint64, key ed25519.PrivateKey) []byte {
	s.t.Helper()
	public := func(key any) []byte {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			s.t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	}
	text := fmt.Appendf(nil, "# version %d\nformat = \"holdfast-launch/v1\"\n[owner]\npolicy_key = \"\"\"\n%s\"\"\"\nseal_key = \"\"\"\n%s\"\"\"\n[hsm]\nmodule = %q\ntoken_label = %q\n", version,
		public(key.Public()), public(s.owner.public()), module, token)
	if !s.unnamed {
		text = append(text, "[xks]\nurl = \"https://xks.example.com\"\n"...)
	}
	return text
}

// launchDocument is that launch file, signed, as it travels.
func (s *site) launchDocument(module, token string, version uint64, key ed25519.PrivateKey) []byte {
	s.t.Helper()
	return s.signLaunch(s.launchText(module, token, version, key), version, key)
}

func (s *site) signLaunch(text []byte, version uint64, key ed25519.PrivateKey) []byte {
	s.t.Helper()
	envelope, err := owner.Sign(text, version, key, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	document, err := owner.EncodeDocument(text, envelope, "")
	if err != nil {
		s.t.Fatal(err)
	}
	return document
}

// TestLaunchFile: an image for everybody serves by a launch file alone. Its first one comes
// by user data and stays; one that is changed, of another owner or older is refused, each
// with its code, before it has any effect; and evidence names file and owner.
func TestLaunchFile(t *testing.T) {
	s := newSite(t)
	module, token := s.cfg.HSM.Module, s.cfg.HSM.TokenLabel
	dir := filepath.Join(t.TempDir(), "launch")
	s.owner = newMachineOwner(t)
	s.cfg.HSM = config.HSM{}
	s.cfg.Launch = config.Launch{Required: true, Dir: dir, Modules: filepath.Dir(module)}
	s.cfg.Instance.Metadata = true
	var userData []byte
	imds := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut:
			_, _ = io.WriteString(w, "a-token")
		case r.URL.Path == "/latest/user-data" && userData != nil:
			_, _ = w.Write(userData)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer imds.Close()
	s.metadata = imds.URL
	locked := func(code, reason string) {
		t.Helper()
		calls, from := s.shim.AllCalls(), len(s.log.String())
		r := s.begin()
		s.logged(from, `msg=boot state=locked .*code=`+code)
		if b := r.status().Boot; b.State != progress.Locked || b.Code != code || !strings.Contains(b.Reason, reason) {
			t.Errorf("%s: the boot is %+v", code, b)
		}
		if now := s.shim.AllCalls(); now != calls {
			t.Errorf("%s: the HSM was called %d times", code, now-calls)
		}
		if e, _ := r.evidence([]byte("an auditor's own nonce")); e.LaunchDigest != nil || e.TPM.Launch() != nil {
			t.Errorf("%s: evidence names a launch file", code)
		}
		r.stop()
	}
	locked("E_LAUNCH_MISSING", "neither")

	ours := s.launchDocument(filepath.Base(module), token, 3, ownerKey(1))
	userData, s.owner.document = ours, ours
	r := s.start()
	e, _ := r.evidence([]byte("an auditor's own nonce"))
	l, _, err := owner.ParseDocument(ours)
	if err != nil {
		t.Fatal(err)
	}
	policy := attest.DefaultPolicy()
	v := attest.Verify(e, &policy, attest.Expectation{LaunchDigest: l.Digest, OwnerDigest: l.OwnerDigest, Roots: s.roots})
	for _, code := range []string{"E_LAUNCH_DIGEST", "E_OWNER", "E_TPM_LAUNCH"} {
		passed := false
		for _, c := range v.Checks {
			passed = passed || c.Code == code && c.Result == "pass"
		}
		if !passed {
			t.Errorf("%s does not pass: %v", code, v.Failed())
		}
	}
	if want, err := tpm.LaunchValue("sha384", l.Digest); err != nil || !bytes.Equal(e.TPM.PCRs["sha384"][tpm.LaunchPCR], want) {
		t.Errorf("PCR 15 is %s, not %s: %v", e.TPM.PCRs["sha384"][tpm.LaunchPCR], want, err)
	}
	if text := r.configuration(); !strings.Contains(text, "https://xks.example.com") {
		t.Errorf("the launch file has no effect:\n%s", text)
	}
	r.stop()

	// Other user data are told, and the stored file goes on.
	userData = s.launchDocument(filepath.Base(module), token, 9, ownerKey(2))
	r = s.start()
	told := false
	for _, step := range r.status().Boot.Steps {
		told = told || step.Code == "E_LAUNCH_IGNORED" && strings.Contains(step.Reason, "the user data have the launch file")
	}
	if e, _ := r.evidence([]byte("an auditor's own nonce")); !told || !bytes.Equal(e.LaunchDigest, l.Digest) {
		t.Errorf("told %v; the launch file is %x", told, e.LaunchDigest)
	}
	r.stop()

	stored := filepath.Join(dir, ownership.StoredFile)
	for code, document := range map[string][]byte{
		"E_LAUNCH_OWNER":     userData,
		"E_LAUNCH_VERSION":   s.launchDocument(filepath.Base(module), token, 2, ownerKey(1)),
		"E_LAUNCH_SIGNATURE": nil, // made below
		"E_LAUNCH_FILE":      s.launchDocument("no-such-module.so", token, 4, ownerKey(1)),
	} {
		if code == "E_LAUNCH_SIGNATURE" { // the owner's signature under another file
			_, envelope, _ := bytes.Cut(ours, []byte(`"signature":`))
			head, _, _ := bytes.Cut(s.launchDocument(filepath.Base(module), "evil", 4, ownerKey(1)), []byte(`"signature":`))
			document = append(append(bytes.Clone(head), `"signature":`...), envelope...)
		}
		s.replace(stored, document)
		locked(code, "")
	}
	s.replace(stored, ours)
	userData = nil
	s.start().stop()

	// A machine whose PCR 15 is somebody else's already.
	s.meddle = func(p *simulation.Platform) error { return p.TPM.Extend(tpm.LaunchPCR, []byte("somebody's")) }
	from := len(s.log.String())
	r = s.begin()
	s.logged(from, `msg=boot state=locked .*code=E_MEASURED_TWICE .*PCR 15`)
	r.stop()
}

// TestLaunchFileIsNotTheImages: the image's configuration is what is measured, so a release
// is the same one with any launch file.
func TestLaunchFileIsNotTheImages(t *testing.T) {
	s := newSite(t)
	module, token := s.cfg.HSM.Module, s.cfg.HSM.TokenLabel
	s.owner = newMachineOwner(t)
	s.cfg.HSM = config.HSM{}
	s.cfg.Launch = config.Launch{Required: true, Dir: filepath.Join(t.TempDir(), "launch"), Modules: filepath.Dir(module)}
	effective, err := s.cfg.Effective()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.cfg.Launch.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s.owner.document = s.launchDocument(filepath.Base(module), token, 1, ownerKey(1))
	s.replace(filepath.Join(s.cfg.Launch.Dir, ownership.StoredFile), s.owner.document)
	r := s.start()
	want := sha256.Sum256(effective)
	e, _ := r.evidence([]byte("an auditor's own nonce"))
	measured := map[string]tpm.Hex{}
	for _, m := range e.TPM.Measurements {
		measured[m.Name] = m.Digest
	}
	if !bytes.Equal(measured["configuration"], want[:]) || measured["pkcs11-module"] != nil || measured["launch"] == nil {
		t.Errorf("measured: %v", measured)
	}
}

// configuration is the configuration in force, as administrators see it.
func (r *running) configuration() string {
	r.s.t.Helper()
	var d operation.SettingsDetail
	r.ok("GET", "settings", nil, &d)
	return d.Configuration
}
