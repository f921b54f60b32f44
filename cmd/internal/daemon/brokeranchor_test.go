package daemon_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/config"
	"holdfast/attest/release"
	"holdfast/web/operation"
)

// TestBrokerIsAnAnchor: the broker that releases the PIN is told which state is served. One
// that knows a newer state has the machine held, though the TPM's counter and the audit log
// agree, until a person accepts it; one that does not know states holds up nothing.
func TestBrokerIsAnAnchor(t *testing.T) {
	s := newSite(t)
	address, listen := reserve(t)
	certificate := newCertificate(t)
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	vault, err := release.OpenVault(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	s.cfg.Release = config.Release{Method: config.Broker, BrokerURL: "https://" + address, BrokerPin: release.Pin(leaf), Machine: "m1", SealedPIN: filepath.Join(t.TempDir(), "unused")}
	r := s.begin()
	s.logged(0, `state=release code=E_BROKER_UNREACHABLE`)
	policy, key, err := s.officer.Policy()
	if err := errors.Join(err, vault.SetPolicy(policy, key), vault.Add("m1", s.pin), vault.Admit("m1", release.Admission{First: true})); err != nil {
		t.Fatal(err)
	}
	broker := release.NewBroker(release.BrokerOptions{Vault: vault, Roots: s.roots, Rate: 1000}).Server(*certificate)
	l := listen()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = broker.ServeTLS(l, "", "")
	}()
	t.Cleanup(func() {
		_ = broker.Close()
		<-ended
	})
	s.logged(0, `msg=serving `)
	var state appliance.StateStatus
	known := func() appliance.AnchorStatus { return state.Anchors[len(state.Anchors)-1] }
	eventually(t, func() error {
		r.ok("GET", "state", nil, &state)
		if a := known(); len(state.Anchors) != 3 || a.Name != "broker" || !a.Agrees || a.Head.Sequence == 0 || a.Since.IsZero() {
			return fmt.Errorf("the anchors are %+v", state.Anchors)
		}
		return nil
	})
	r.stop()

	file := filepath.Join(dir, "states", "m1.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	newer := regexp.MustCompile(`"sequence":\d+`).ReplaceAll(text, []byte(`"sequence":100000`))
	if err := os.WriteFile(file, newer, 0o600); err != nil {
		t.Fatal(err)
	}
	from := len(s.log.String())
	r = s.begin()
	s.logged(from, `state=locked .*code=E_STATE_ROLLED_BACK`)
	r.ok("GET", "state", nil, &state)
	if !strings.Contains(state.Held, "the broker has known the number 100000") {
		t.Errorf("it is held because of: %s", state.Held)
	}
	r.ok("POST", "state/accept", operation.AcceptedState{Reason: "the test has edited the broker's folder"}, nil)
	s.logged(from, `state=serving`)
	r.ok("GET", "state", nil, &state)
	if state.Head.Sequence <= 100000 || !known().Agrees {
		t.Errorf("after it was accepted: %+v", state)
	}
	r.stop()
	from = len(s.log.String())
	r = s.start() // the broker may not have been told
	if strings.Contains(s.log.String()[from:], "E_STATE") {
		t.Error("a false alarm")
	}
	r.stop()

	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil { // a broker that fails
		t.Fatal(err)
	}
	r = s.start()
	r.ok("GET", "state", nil, &state)
	if a := known(); a.Agrees || !strings.Contains(a.Why, "E_ANCHOR_AWAY") {
		t.Errorf("%+v", a)
	}
}
