package xks_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/keyring/keyringtest"
	"holdfast/appliance/keyring/scrub"
	"holdfast/hsm/hsmtest"
	"holdfast/xks/xkstest"
)

// ending is a way of all keys out of service, or of one that is not an
// administrator's; those are tested in cmd/holdfast-dev.
type ending struct {
	name string
	// end is called in the process that is searched.
	end func(t *testing.T, s *searched)
	// credential says that the credential goes as well.
	credential bool
}

var endings = []ending{
	{"lock", func(_ *testing.T, s *searched) { s.bed.Appliance.Lock() }, true},
	{"end of the lease", func(_ *testing.T, s *searched) {
		s.shim.Cut()
		s.clock.Pass(2 * time.Minute)
		s.bed.Appliance.KeepLease(context.Background())
	}, true},
	{"more keys than may be unlocked", func(t *testing.T, s *searched) {
		for i := range 100 { // the cache has a place or two in each of its parts
			id := fmt.Sprintf("other-%d", i)
			s.bed.NewKey(t, "demo", id, "encrypt", appliance.CustodyCached)
			s.kms.OK("/keys/"+id+"/encrypt", xkstest.EncryptBody("x"))
		}
	}, false},
	{"stop", func(t *testing.T, s *searched) { s.bed.Stop() }, true},
}

// searched is the process whose memory is searched: an appliance whose garbage
// collector never runs by itself.
type searched struct {
	bed   *xkstest.Bed
	kms   *xkstest.KMS
	shim  *hsmtest.Shim
	clock *appliancetest.Clock
}

// introduction is what the searched process says of itself, in one line. The key
// follows it.
type introduction struct {
	URL, AccessKeyID, SecretAccessKey string
	Certificate                       []byte
}

const roleOfSearched = "HOLDFAST_TEST_SEARCHED"

// serveSearched is the process that is searched. Each line on its input ends what the
// ending of that number ends.
func serveSearched(t *testing.T) {
	debug.SetGCPercent(-1)
	token, shim := hsmtest.NewBehindShim(t)
	s := &searched{shim: shim, clock: appliancetest.NewClock()}
	s.bed = xkstest.Start(t, xkstest.Options{Token: token, Appliance: appliance.Options{Now: s.clock.Now, Lease: time.Minute, MaxUnlockedKeys: 16}})
	s.kms = s.bed.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
	text, err := json.Marshal(introduction{s.kms.URL, s.kms.AccessKeyID, s.kms.SecretAccessKey, s.bed.Certificate.Raw})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(os.Stderr, "%s\n", text)
	material := make([]byte, appliance.KeyBytes)
	if _, err := rand.Read(material); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stderr.Write(material); err != nil {
		t.Fatal(err)
	}
	if _, err := s.bed.Appliance.CreateKey(t.Context(), "demo", appliance.NewExternalKey{ID: "k", Usage: appliance.Usage{Encrypt: true, Decrypt: true},
		Custody: appliance.CustodyCached, Material: material}); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		for _, e := range endings {
			if e.name == lines.Text() {
				e.end(t, s)
			}
		}
		fmt.Fprintln(os.Stderr, "ended")
	}
}

// TestNothingStaysInMemory: a key that has encrypted 500 times, and the signing key of
// the day, are nowhere in the process's memory within a second after they went out of
// service; nor is there any copy of the key beside the one in locked memory while it serves.
func TestNothingStaysInMemory(t *testing.T) {
	if os.Getenv(roleOfSearched) != "" {
		serveSearched(t)
		return
	}
	if !scrub.Enabled {
		keyringtest.Cannot(t, "built without GOEXPERIMENT=runtimesecret: copies stay in the heap")
	}
	for _, e := range endings {
		t.Run(strings.ReplaceAll(e.name, " ", "_"), func(t *testing.T) { searchAfter(t, e) })
	}
}

func searchAfter(t *testing.T, e ending) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestNothingStaysInMemory$")
	cmd.Env = append(os.Environ(), roleOfSearched+"=yes")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	defer func() {
		_ = in.Close()
		_, _ = io.Copy(io.Discard, lines)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}()
	var of introduction
	line, err := lines.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &of)
	}
	material := make([]byte, appliance.KeyBytes)
	if err == nil {
		_, err = io.ReadFull(lines, material)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	certificate, err := x509.ParseCertificate(of.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	kms := &xkstest.KMS{T: t, URL: of.URL, AccessKeyID: of.AccessKeyID, SecretAccessKey: of.SecretAccessKey, Service: "kms-xks-proxy", Region: "us-east-1",
		HTTP: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}}
	appliancetest.Eventually(t, "that the key is there", func() bool {
		return kms.Call("/keys/k/encrypt", xkstest.EncryptBody("x")).Status == http.StatusOK
	})
	for range 250 {
		sealed := kms.OK("/keys/k/encrypt", xkstest.EncryptBody("a plaintext"))
		kms.OK("/keys/k/decrypt", xkstest.DecryptBody(sealed))
		kms.OK("/keys/k/encrypt", xkstest.EncryptBody("a plaintext"))
	}
	memory := keyringtest.Other(cmd.Process.Pid)
	roundKeys := keyringtest.AESKey(t, material)
	if f := memory.Find(t, roundKeys[0])[0]; f != (keyringtest.Found{Locked: 1}) {
		t.Errorf("while it serves the key is in memory: %+v", f)
	}
	secrets := roundKeys
	if e.credential {
		for _, pattern := range keyringtest.SigningKey(t, []byte(of.SecretAccessKey), time.Now().UTC().Format("20060102"), kms.Region, kms.Service) {
			secrets = append(secrets, pattern)
		}
	}
	fmt.Fprintln(in, e.name)
	if line, err := lines.ReadString('\n'); err != nil || line != "ended\n" {
		t.Fatalf("%q, %v", line, err)
	}
	memory.Gone(t, "after "+e.name, secrets...)
}
