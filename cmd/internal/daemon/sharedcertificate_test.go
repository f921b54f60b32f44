package daemon_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/web/operation"
)

// presented gives the certificate that a listener presents.
func presented(t *testing.T, address net.Addr) *x509.Certificate {
	t.Helper()
	c, err := tls.Dial("tcp", address.String(), &tls.Config{InsecureSkipVerify: true}) // which it is, is the question
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0]
}

// TestSharedCertificate: both listeners present the machine's own certificate until it is unlocked,
// then the one that rests in the database, also after a restart; evidence names the key in use.
func TestSharedCertificate(t *testing.T) {
	s := newSite(t)
	own, err := tls.LoadX509KeyPair(s.cfg.XKS.Certificate, s.cfg.XKS.Key)
	if err != nil {
		t.Fatal(err)
	}
	shared := newCertificate(t)
	der, err := x509.MarshalPKCS8PrivateKey(shared.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	present := func(when string, r *running, want *x509.Certificate) {
		t.Helper()
		for _, a := range []net.Addr{r.XKS, r.Admin} {
			if !presented(t, a).Equal(want) {
				t.Errorf("%s: %s presents another certificate", when, a)
			}
		}
	}
	anybody := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // the evidence is compared with it
	// renewed waits until the newest evidence is of the key in use, and verifies what is made for a nonce.
	renewed := func(when string, r *running, since time.Time, want *x509.Certificate) {
		t.Helper()
		eventually(t, func() error {
			if a := r.status().Boot.Attestation; a == nil || !a.Time.After(since) {
				return fmt.Errorf("%s: evidence is of %+v", when, a)
			}
			return nil
		})
		nonce := []byte("an auditor's own nonce")
		e, key := r.evidenceBy(anybody, nonce)
		if !bytes.Equal(e.TLSKey, key) {
			t.Errorf("%s: the evidence names another key than the connection's", when)
		}
		if !bytes.Equal(e.TLSKey, want.RawSubjectPublicKeyInfo) {
			t.Errorf("%s: the evidence names another key", when)
		}
	}
	r := s.start()
	present("before", r, own.Leaf)
	first := r.status().Boot.Attestation.Time
	var shown operation.Certificate
	chain := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: shared.Certificate[0]}))
	r.ok("PUT", "certificate/shared", operation.SharedCertificate{Chain: chain, Key: key, OwnAuthority: true, OtherName: true}, &shown)
	if !shown.Shared || shown.Chain != chain {
		t.Errorf("it is shown as %+v", shown)
	}
	present("shared", r, shared.Leaf)
	renewed("shared", r, first, shared.Leaf)
	r.stop()

	s.shim.Cut()
	before := len(s.log.String())
	r = s.begin()
	s.logged(before, `is tried again" state=unlock`)
	present("not unlocked", r, own.Leaf)
	boot := r.status().Boot.Attestation.Time
	s.shim.Restore()
	s.logged(before, `msg=serving `)
	present("after a restart", r, shared.Leaf)
	renewed("after a restart", r, boot, shared.Leaf)

	r.ok("DELETE", "certificate/shared", nil, &shown)
	if shown.Shared {
		t.Errorf("it is shown as %+v", shown)
	}
	present("no longer shared", r, own.Leaf)
	r.stop()

	// The key is in no file and no line of the log.
	line := bytes.Split(key, []byte("\n"))[1]
	for _, path := range []string{filepath.Join(s.cfg.State.Dir, "holdfast.db"), filepath.Join(s.cfg.State.Dir, "audit")} {
		_ = filepath.Walk(path, func(path string, info os.FileInfo, err error) error {
			if err != nil || !info.Mode().IsRegular() {
				return err
			}
			text, err := os.ReadFile(path)
			if bytes.Contains(text, der[30:]) || bytes.Contains(text, line) {
				t.Errorf("%s has the key", path)
			}
			return err
		})
	}
	if strings.Contains(s.log.String(), string(line)) {
		t.Error("the log has the key")
	}
}
