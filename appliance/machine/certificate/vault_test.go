package certificate_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/changelogtest"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/certificate"
)

// sharing is a fleet whose nodes may share a certificate.
type sharing struct {
	t     *testing.T
	token appliancetest.Device
	log   *changelogtest.Memory
}

func newSharing(t *testing.T) *sharing {
	return &sharing{t, appliancetest.NewMemory(), changelogtest.NewMemory(nil)}
}

// sharer is a node, with a listener that handshakes with its certificate.
type sharer struct {
	*certificate.Certificate
	t        *testing.T
	bed      *appliancetest.Bed
	own      string // the name in its own certificate
	files    string
	listener net.Listener
}

// node starts one, unlocked, in a folder, which has the state and its own certificate for a name.
func (s *sharing) node(name, dir string, alone bool) *sharer {
	s.t.Helper()
	o := appliancetest.Options{Token: s.token}
	if !alone {
		o.Appliance.ChangeLog = s.log.Peer()
	}
	return s.begin(name, dir, o)
}

// empty starts an appliance that begins another installation beside the traces of the first.
func (s *sharing) empty(name, dir string) *sharer {
	s.t.Helper()
	return s.begin(name, dir, appliancetest.Options{Token: s.token, Beside: true})
}

func (s *sharing) begin(name, dir string, o appliancetest.Options) *sharer {
	s.t.Helper()
	o.Dir = filepath.Join(dir, "state")
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
	n := &sharer{t: s.t, bed: appliancetest.Start(s.t, o), own: name, files: dir}
	cert, key := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	if _, err := certificate.MakeFirst(cert, key, []string{name}, time.Now()); err != nil {
		s.t.Fatal(err)
	}
	var err error
	if n.Certificate, err = certificate.Load(cert, key, time.Now, n.bed.Logger); err != nil {
		s.t.Fatal(err)
	}
	n.Open(n.bed.Appliance, "https://xks.test", "https://xks.test:9443")
	n.bed.Store.Subscribe(func(c appliance.Change) {
		if c.Setting != "" {
			n.Look(context.Background())
		}
	})
	n.Look(s.t.Context()) // as after the unlock
	if n.listener, err = tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: n.Get}); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = n.listener.Close() })
	go func() {
		for {
			c, err := n.listener.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).Handshake() // the client says what fails
			_ = c.Close()
		}
	}()
	return n
}

// presented gives the name in what the listener presents, and proves to have the key of.
func (n *sharer) presented() string {
	n.t.Helper()
	c, err := tls.Dial("tcp", n.listener.Addr().String(), &tls.Config{InsecureSkipVerify: true}) // which it is, is the question
	if err != nil {
		n.t.Fatal(err)
	}
	defer c.Close()
	return strings.Join(certificate.Names(c.ConnectionState().PeerCertificates[0]), " ")
}

func (n *sharer) presents(when, want string) {
	n.t.Helper()
	if got := n.presented(); got != want {
		n.t.Errorf("%s: %s presents %q, not %q", when, n.own, got, want)
	}
}

func (n *sharer) catchUp() {
	n.t.Helper()
	if err := n.bed.Store.CatchUp(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
}

// signed gives a certificate for names with its chain, and its key, in PEM.
func signed(t *testing.T, a *authority, key any, names []string, change func(*x509.Certificate)) (chain, text []byte) {
	t.Helper()
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names}, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return append(a.sign(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request}), change), a.pem()...),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestNodesShareACertificate: what one node shares all present while they are unlocked, also
// after a change at another, a node that begins later, and one that starts again. A node that is
// locked presents its own.
func TestNodesShareACertificate(t *testing.T) {
	f, ca := newSharing(t), newAuthority(t)
	dir := t.TempDir()
	a, b := f.node("a.test", t.TempDir(), false), f.node("b.test", dir, false)
	a.presents("before", "a.test")
	b.presents("before", "b.test")
	if a.Shared() || a.Unshare(t.Context()) == nil {
		t.Error("there is nothing to stop sharing")
	}
	chain, key := signed(t, ca, newKey(t), []string{"xks.test", "first.test"}, nil)
	if err := a.Share(t.Context(), chain, key, meant); err != nil {
		t.Fatal(err)
	}
	a.presents("at once", "xks.test first.test")
	b.presents("before it is told", "b.test")
	b.catchUp()
	b.presents("when it was told", "xks.test first.test")
	f.node("c.test", t.TempDir(), false).presents("a node that begins later", "xks.test first.test")

	chain, key = signed(t, ca, newKey(t), []string{"xks.test", "second.test"}, nil)
	if err := b.Share(t.Context(), chain, key, meant); err != nil {
		t.Fatal(err)
	}
	a.catchUp()
	a.presents("after a change at the other node", "xks.test second.test")

	b.bed.Appliance.Lock()
	b.presents("locked, before anything looks", "b.test")
	if b.Shared() {
		t.Error("a locked node says that it shares")
	}
	b.Look(t.Context())
	b.presents("locked", "b.test")
	for what, err := range map[string]error{"share": b.Share(t.Context(), chain, key, meant), "stop": b.Unshare(t.Context())} {
		if fault.CodeOf(err) != fault.Locked {
			t.Errorf("%s while locked: %v", what, err)
		}
	}
	b.bed.Stop()
	b = f.node("b.test", dir, false)
	b.presents("after a restart", "xks.test second.test")

	if err := a.Unshare(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.catchUp()
	a.presents("no longer shared", "a.test")
	b.presents("no longer shared", "b.test")
}

// TestRequestAndInstallShared: of a certificate that is shared, one node makes the request, another
// installs the answer, and all present it; a renewal for the key that there is, too.
func TestRequestAndInstallShared(t *testing.T) {
	f, ca := newSharing(t), newAuthority(t)
	a, b := f.node("a.test", t.TempDir(), false), f.node("xks.test", t.TempDir(), false)
	if err := b.Share(t.Context(), nil, nil, certificate.Accepted{}); err != nil { // its own
		t.Fatal(err)
	}
	a.catchUp()
	a.presents("that of the other node", "xks.test")
	asked, err := a.Request(t.Context(), []string{"xks.test", "asked.test"})
	if err != nil {
		t.Fatal(err)
	}
	b.catchUp()
	if !a.Requested() || !b.Requested() {
		t.Error("a node does not know of the request")
	}
	if _, err := os.Stat(filepath.Join(a.files, "k.pem.requested")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the key is in a file: %v", err)
	}
	a.presents("while the request waits", "xks.test")
	chain := append(ca.sign(asked, nil), ca.pem()...)
	if err := b.Install(t.Context(), chain, meant); err != nil {
		t.Fatal(err)
	}
	a.catchUp()
	for _, n := range []*sharer{a, b} {
		if n.presents("installed", "xks.test asked.test"); n.Requested() {
			t.Error("the request still waits")
		}
	}
	renewed := append(ca.sign(asked, func(c *x509.Certificate) { c.DNSNames = []string{"xks.test", "renewed.test"} }), ca.pem()...)
	if err := a.Install(t.Context(), renewed, meant); err != nil {
		t.Fatal(err)
	}
	b.catchUp()
	b.presents("renewed", "xks.test renewed.test")
	other, _ := signed(t, ca, newKey(t), []string{"xks.test"}, nil)
	if err := a.Install(t.Context(), other, meant); fault.CodeOf(err) != fault.Invalid || !strings.Contains(err.Error(), "another key") {
		t.Errorf("of another key: %v", err)
	}
	if err := a.Install(t.Context(), append(ca.sign(asked, func(c *x509.Certificate) { c.DNSNames = []string{"else.test"} }), ca.pem()...), meant); fault.CodeOf(err) != fault.Invalid {
		t.Errorf("of another name: %v", err)
	}
	// The node's own is as it was.
	if err := a.Unshare(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.presents("no longer shared", "a.test")
}

// TestShareRefused: what will not do is refused in one line, and nothing is shared.
func TestShareRefused(t *testing.T) {
	f, ca := newSharing(t), newAuthority(t)
	n := f.node("a.test", t.TempDir(), false)
	good := newKey(t)
	chain, key := signed(t, ca, good, []string{"xks.test"}, nil)
	_, another := signed(t, ca, newKey(t), []string{"xks.test"}, nil)
	expired, _ := signed(t, ca, good, []string{"xks.test"}, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })
	early, _ := signed(t, ca, good, []string{"xks.test"}, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) })
	names, _ := signed(t, ca, good, []string{"else.test"}, nil)
	for what, c := range map[string]struct {
		chain, key []byte
		want       string
	}{
		"another key":           {chain, another, "key"},
		"expired":               {expired, key, "expired"},
		"not yet":               {early, key, "begins"},
		"other names":           {names, key, "xks.test"},
		"a chain alone":         {chain, nil, "both"},
		"a key alone":           {nil, key, "both"},
		"no PEM":                {[]byte("hello"), key, "PEM"},
		"the key in the chain":  {append(bytes.Clone(chain), key...), key, "no certificate"},
		"no key":                {chain, []byte("hello"), "key"},
		"its own, other names":  {nil, nil, "xks.test"},
		"longer than is sealed": {bytes.Repeat(chain, 200), key, "bytes"},
	} {
		err := n.Share(t.Context(), c.chain, c.key, meant)
		if fault.CodeOf(err) != fault.Invalid || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", what, err)
		}
		n.presents(what, "a.test")
	}
}

// TestSharedKinds: keys of each kind that certificates may have sign handshakes.
func TestSharedKinds(t *testing.T) {
	f, ca := newSharing(t), newAuthority(t)
	n := f.node("a.test", t.TempDir(), false)
	old, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]any{"ecdsa.test": newKey(t), "rsa.test": old} {
		chain, text := signed(t, ca, key, []string{"xks.test", name}, nil)
		if err := n.Share(t.Context(), chain, text, meant); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		n.presents("shared", "xks.test "+name)
	}
}

// TestSharedByTwoAtOnce: of two nodes that share at once without knowing of each other, one is
// told that the other was faster.
func TestSharedByTwoAtOnce(t *testing.T) {
	f, ca := newSharing(t), newAuthority(t)
	a, b := f.node("a.test", t.TempDir(), false), f.node("b.test", t.TempDir(), false)
	one, oneKey := signed(t, ca, newKey(t), []string{"xks.test", "one.test"}, nil)
	two, twoKey := signed(t, ca, newKey(t), []string{"xks.test", "two.test"}, nil)
	if err := a.Share(t.Context(), one, oneKey, meant); err != nil {
		t.Fatal(err)
	}
	if err := b.Share(t.Context(), two, twoKey, meant); fault.CodeOf(err) != fault.Changed {
		t.Errorf("the second: %v", err)
	}
	b.catchUp()
	b.presents("after the refusal", "xks.test one.test")
}

// TestSharedAlone: an appliance alone may keep its certificate so, too.
func TestSharedAlone(t *testing.T) {
	f, ca := newSharing(t), newAuthority(t)
	dir := t.TempDir()
	n := f.node("a.test", dir, true)
	chain, key := signed(t, ca, newKey(t), []string{"xks.test"}, nil)
	if err := n.Share(t.Context(), chain, key, meant); err != nil {
		t.Fatal(err)
	}
	n.bed.Stop()
	n = f.node("a.test", dir, true)
	n.presents("after a restart", "xks.test")
	// Neither the state, nor a backup, nor the log has the key in the clear.
	made, err := n.bed.Appliance.Backup(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	var backup bytes.Buffer
	_, err = made.WriteTo(&backup)
	if err := errors.Join(err, made.Close()); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(key)
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	scalar, err := private.(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"the backup": backup.Bytes(), "the log": []byte(n.bed.Log.String())}
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || filepath.Dir(path) == dir {
			return err
		}
		files[path], err = os.ReadFile(path)
		return err
	})
	if err != nil || len(files) < 3 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	line := bytes.Split(key, []byte("\n"))[1]
	for name, text := range files {
		for form, secret := range map[string][]byte{"scalar": scalar, "PEM": line, "DER": block.Bytes[30:]} {
			if bytes.Contains(text, secret) {
				t.Errorf("%s has the key (%s)", name, form)
			}
		}
	}
	// An appliance that restores it serves with it.
	n.bed.Stop()
	restored := (&sharing{t, f.token, nil}).empty("z.test", t.TempDir())
	if _, err := restored.bed.Appliance.Restore(t.Context(), bytes.NewReader(backup.Bytes()), appliance.Restoration{}); err != nil {
		t.Fatal(err)
	}
	restored.Look(t.Context())
	restored.presents("restored", "xks.test")
}
