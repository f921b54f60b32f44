package daemon_test

import (
	"bytes"
	"errors"
	"html"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/appliance/audit"
	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/appliance/machine/ownership"
	"holdfast/attest/owner"
	"holdfast/attest/tpm/seal"
	"holdfast/web/operation"
)

func (r *running) launch() (d operation.LaunchDetail) {
	r.s.t.Helper()
	r.ok("GET", "launch", nil, &d)
	return d
}

// TestInstallLaunch: a machine without a launch file gets one over the network, and serves
// by it from its next start on; so does one that serves get another. What is not signed by
// the owner, another owner's, older, another one of the version, or of no use on this image
// is refused with the code that the start would be locked with, before anything is written.
func TestInstallLaunch(t *testing.T) {
	s := newSite(t)
	module, token := filepath.Base(s.cfg.HSM.Module), s.cfg.HSM.TokenLabel
	s.cfg.Launch = config.Launch{Required: true, Dir: filepath.Join(t.TempDir(), "launch"), Modules: filepath.Dir(s.cfg.HSM.Module)}
	s.cfg.HSM = config.HSM{}
	s.owner = newMachineOwner(t)
	stored := filepath.Join(s.cfg.Launch.Dir, ownership.StoredFile)
	put := func(r *running, document []byte) error {
		return r.do("PUT", "launch", operation.LaunchDocument{Document: string(document)}, nil)
	}
	refused := func(r *running, code fault.Code, document []byte) {
		t.Helper()
		before, _ := os.ReadFile(stored)
		err := put(r, document)
		after, _ := os.ReadFile(stored)
		if fault.CodeOf(err) != code || !bytes.Equal(before, after) {
			t.Errorf("got %v, not %s; written: %t", err, code, !bytes.Equal(before, after))
		}
	}

	r := s.begin()
	s.logged(0, `msg=boot state=locked .*code=E_LAUNCH_MISSING`)
	if d := r.launch(); !d.Required || d.InForce != nil || d.Next != nil || !strings.Contains(d.Why, "E_LAUNCH_MISSING") {
		t.Errorf("without one: %+v", d)
	}
	first := s.launchDocument(module, token, 3, ownerKey(1))
	refused(r, fault.LaunchFile, []byte("{}"))
	refused(r, fault.LaunchFile, s.launchDocument("no-such-module.so", token, 1, ownerKey(1)))
	refused(r, fault.LaunchSignature, bytes.Replace(first, []byte(`"sig":"`), []byte(`"sig":"AAAA`), 1))
	if err := put(r, first); err != nil {
		t.Fatal(err)
	}
	if d := r.launch(); d.InForce != nil || d.Next == nil || d.Next.Version != 3 || len(d.Next.Sets) == 0 {
		t.Errorf("installed: %+v", d)
	}
	refused(r, fault.LaunchVersion, s.launchDocument(module, token, 2, ownerKey(1)))
	r.stop()

	s.owner.document = first // which the owner approves
	r = s.start()
	if d := r.launch(); d.InForce == nil || d.InForce.Version != 3 || d.Next != nil || d.Why != "" {
		t.Errorf("started with it: %+v", d)
	}
	refused(r, fault.LaunchOwner, s.launchDocument(module, token, 9, ownerKey(2)))
	refused(r, fault.LaunchVersion, s.launchDocument(module, token, 2, ownerKey(1)))
	refused(r, fault.LaunchVersion, s.launchDocument(module, "another", 3, ownerKey(1)))
	if err := put(r, first); err != nil {
		t.Errorf("the same again: %v", err)
	}
	second := s.launchDocument(module, token, 4, ownerKey(1))
	if err := put(r, second); err != nil {
		t.Fatal(err)
	}
	// The owner's approvals for it come in the same way, with the policy.
	s.owner.document, s.owner.away = second, true
	text, err := os.ReadFile(s.cfg.Attestation.Policy)
	if err != nil {
		t.Fatal(err)
	}
	approved := operation.PolicyFiles{Policy: string(text), Approvals: newMachineOwner(t).approvals(s, second)}
	if err := r.do("PUT", "policy", approved, nil); fault.CodeOf(err) != fault.SealSignature {
		t.Errorf("approvals of another owner: %v", err)
	}
	approved.Approvals = s.owner.approvals(s, second)
	r.ok("PUT", "policy", approved, nil)
	if b := r.status().Boot; b.State != progress.Serving {
		t.Errorf("it does not serve on: %+v", b)
	}
	refused(r, fault.LaunchVersion, first) // older than the one that waits
	r.stop()
	r = s.start()
	if d := r.launch(); d.InForce == nil || d.InForce.Version != 4 || d.Next != nil {
		t.Errorf("the next one: %+v", d)
	}
	var found operation.Records
	r.ok("GET", "audit/records?kind=admin", nil, &found)
	n := 0
	for _, record := range found.Records {
		if record.Operation == "PUT launch" && strings.Contains(string(record.After), `"next"`) {
			n++
		}
	}
	if n == 0 {
		t.Error("the change is not on record")
	}
	// What was changed in the folder is told while it waits.
	s.replace(stored, []byte("{}"))
	if d := r.launch(); !strings.Contains(d.Why, "E_LAUNCH_FILE") {
		t.Errorf("damaged: %+v", d)
	}
	// And gives way to one that counts.
	if err := put(r, s.launchDocument(module, token, 5, ownerKey(1))); err != nil {
		t.Error(err)
	}
	r.stop()
}

// approvals are the owner's of all that the officer has authorized, for a launch file.
func (o *machineOwner) approvals(s *site, document []byte) string {
	s.t.Helper()
	authorizations, err1 := s.officer.Authorizations()
	l, _, err2 := owner.ParseDocument(document)
	if err := errors.Join(err1, err2); err != nil {
		s.t.Fatal(err)
	}
	approvals, err := seal.ApproveRelease(o.seal, authorizations, l.Digest, 1)
	if err != nil {
		s.t.Fatal(err)
	}
	text, err := seal.EncodeAuthorizations(approvals)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// TestFirstLaunchInTheConsole: on a machine that has no launch file nobody can be enrolled, and
// who has the setup code installs one; what was entered stays when it is refused.
func TestFirstLaunchInTheConsole(t *testing.T) {
	s := newSite(t)
	s.owner = newMachineOwner(t)
	module, token := filepath.Base(s.cfg.HSM.Module), s.cfg.HSM.TokenLabel
	s.cfg.Launch = config.Launch{Required: true, Dir: filepath.Join(t.TempDir(), "launch"), Modules: filepath.Dir(s.cfg.HSM.Module)}
	s.cfg.HSM = config.HSM{}
	r := s.begin()
	s.logged(0, `msg=boot state=locked .*code=E_LAUNCH_MISSING`)
	code := <-s.welcomed
	document := bytes.TrimSpace(s.launchDocument(module, token, 1, ownerKey(1)))
	if status, page := r.page("/setup", nil); status != http.StatusOK || !strings.Contains(page, "holdfast launch sign") || !strings.Contains(page, "token_label") {
		t.Errorf("%d %s", status, page)
	}
	stored := filepath.Join(s.cfg.Launch.Dir, ownership.StoredFile)
	for name, form := range map[string]url.Values{
		"a wrong code":           {"setup_code": {code + "x"}, "document": {string(document)}},
		"a document that is bad": {"setup_code": {code}, "document": {"no document"}},
		"no document":            {"setup_code": {code}},
	} {
		status, page := r.page("/setup", form)
		if status < 400 || strings.Contains(page, "is installed") || strings.Contains(page, code) || form.Get("document") != "" && !strings.Contains(html.UnescapeString(page), form.Get("document")) {
			t.Errorf("%s: %d %s", name, status, page)
		}
		if _, err := os.Stat(stored); err == nil {
			t.Fatalf("%s: a launch file was written", name)
		}
	}
	if status, page := r.page("/setup", url.Values{"setup_code": {code}, "document": {string(document)}}); status != http.StatusOK || !strings.Contains(page, "restart the machine") {
		t.Fatalf("%d %s", status, page)
	}
	var found operation.Records
	r.ok("GET", "audit/records?kind=admin", nil, &found)
	if !slices.ContainsFunc(found.Records, func(rec audit.NodeRecord) bool {
		return rec.Operation == "PUT launch" && rec.Result == audit.Allowed && rec.Actor == "setup code"
	}) {
		t.Errorf("the record: %+v", found.Records)
	}
	r.stop()

	s.owner.document = document
	r = s.start()
	if d := r.launch(); d.InForce == nil || d.InForce.Version != 1 {
		t.Errorf("started with it: %+v", d)
	}
	// Setup goes on as ever, and takes no launch file any more.
	r.enrol(<-s.welcomed, "alice")
	if status, page := r.page("/setup", url.Values{"setup_code": {code}, "document": {string(document)}}); status < 400 || strings.Contains(page, "is installed") {
		t.Errorf("later: %d %s", status, page)
	}
}
