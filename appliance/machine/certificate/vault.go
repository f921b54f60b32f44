package certificate

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/url"
	"os"
	"time"

	"holdfast/appliance/fault"
)

// Vault is where the certificate rests that all nodes of an installation serve with: under its
// state key. [*appliance.Appliance] is one.
type Vault interface {
	// Locked says whether the state key is not there.
	Locked() bool
	// SharedCertificate gives what was kept, nil for nothing, or if it is still that of the
	// version known; and its version. The caller zeroizes it. fault.Locked.
	SharedCertificate(ctx context.Context, known string) (text []byte, version string, err error)
	// KeepSharedCertificate replaces that of the version; nothing is kept if text is empty.
	// fault.Changed, fault.TooLarge, fault.Locked.
	KeepSharedCertificate(ctx context.Context, text []byte, version string) error
}

// lookEvery is how often it is looked whether the shared certificate is another one, or may
// not be served with any more. Changes that are announced do not wait for it.
const lookEvery = time.Second

// serving is a shared certificate in use.
type serving struct {
	pair      *tls.Certificate
	key       *sharedKey
	requested bool
	previous  *x509.Certificate // nil if none is kept
}

// Open has it serve with the vault's certificate while there is one and the appliance is
// unlocked. A certificate that is installed must be for the hosts of the URLs, by which AWS KMS
// calls and browsers open the console; either may be empty. Call it before [Certificate.Get].
func (c *Certificate) Open(v Vault, xksURL, adminURL string) {
	c.vault, c.endpoint = v, hostOf(xksURL)
	for _, host := range []string{c.endpoint, hostOf(adminURL)} {
		if host != "" {
			c.hosts = append(c.hosts, host)
		}
	}
	c.warn(c.current)
}

func hostOf(configured string) string {
	u, err := url.Parse(configured)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// Shared says whether it serves with the certificate that all nodes have.
func (c *Certificate) Shared() bool { return c.sharedNow() != nil }

// sharedNow gives what all nodes serve with; nil while this one serves with its own.
func (c *Certificate) sharedNow() *serving {
	if s := c.shared.Load(); s != nil && !c.vault.Locked() {
		return s
	}
	return nil
}

// Follow looks each second whether the shared certificate is another one, until ctx ends.
func (c *Certificate) Follow(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		c.Look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Look looks whether the shared certificate is another one, and serves with it from then on.
// When the appliance was locked it zeroizes the key and serves with its own.
func (c *Certificate) Look(ctx context.Context) {
	c.looking.Lock()
	defer c.looking.Unlock()
	text, version, err := []byte(nil), "", error(nil)
	if !c.vault.Locked() {
		text, version, err = c.vault.SharedCertificate(ctx, c.known)
	}
	defer clear(text)
	if code := fault.CodeOf(err); err != nil && code != fault.Locked {
		if !c.failing {
			c.log.Error("the shared certificate cannot be read; the one before is kept", "code", code, "reason", fault.ReasonOf(err))
		}
		c.failing = true
		return
	}
	c.failing = false
	if version == c.known {
		return
	}
	var s *serving
	if len(text) > 0 {
		b, err := decodeBundle(text)
		if err != nil {
			c.log.Error("the shared certificate cannot be used; this node serves with its own", "error", err)
		} else {
			s = b.serve()
		}
	}
	c.known = version
	c.serve(s)
}

// serve puts a shared certificate in the place of the one before; nil for the machine's own.
func (c *Certificate) serve(s *serving) {
	before := c.shared.Swap(s)
	if before != nil {
		before.key.wipe()
	}
	switch {
	case s != nil && (before == nil || !before.pair.Leaf.Equal(s.pair.Leaf)):
		c.log.Info("the shared certificate is in use", "subject", s.pair.Leaf.Subject.String(), "expires", s.pair.Leaf.NotAfter)
	case s == nil && before != nil:
		c.log.Info("this node serves with its own certificate", "file", c.certFile)
	}
}

// Share has all nodes serve with a certificate (PEM, with those that signed it) and its
// private key (PEM); with those of this node if both are empty. The caller zeroizes the key. The
// shared one before is kept ([Certificate.Restore]). Errors: [fault.Invalid]; those of the vault.
func (c *Certificate) Share(ctx context.Context, chain, key []byte, accepted Accepted) error {
	present := len(chain) == 0 && len(key) == 0
	if present {
		var err error
		if chain, err = os.ReadFile(c.certFile); err != nil {
			return fmt.Errorf("read the certificate: %w", err)
		}
		if key, err = os.ReadFile(c.keyFile); err != nil {
			return fmt.Errorf("read the key: %w", err)
		}
		defer clear(key)
	}
	raw, err := c.sharedKeyOf(chain, key, accepted, present)
	if err != nil {
		return err
	}
	b, version, err := c.bundle(ctx)
	if err != nil {
		return err
	}
	defer b.wipe()
	b.replace(chain, raw)
	return c.keep(ctx, b, version)
}

// Unshare removes the shared certificate and its key, so that each node serves with its own.
// Errors: fault.NotFound if there is none; those of the vault.
func (c *Certificate) Unshare(ctx context.Context) error {
	b, version, err := c.bundle(ctx)
	if err != nil {
		return err
	}
	defer b.wipe()
	if b.key == nil {
		return errNotShared
	}
	return c.vault.KeepSharedCertificate(ctx, nil, version)
}

var errNotShared = fault.Errorf(fault.NotFound, "no certificate is shared: each node serves with its own")

// CheckShare gives the error that Share would, and changes nothing.
func (c *Certificate) CheckShare(chain, key []byte, accepted Accepted) error {
	if len(chain) == 0 && len(key) == 0 {
		return nil // those of this node, which serves with them
	}
	raw, err := c.sharedKeyOf(chain, key, accepted, false)
	clear(raw)
	return err
}

// sharedKeyOf gives the key (PKCS #8) of a chain that all nodes can serve with. The caller
// zeroizes it.
func (c *Certificate) sharedKeyOf(chain, key []byte, accepted Accepted, present bool) ([]byte, error) {
	if len(chain) == 0 || len(key) == 0 {
		return nil, fault.Errorf(fault.Invalid, "give both the certificate chain and its private key, or neither to share those of this node")
	}
	check := func() error { _, err := c.checkShared(chain, accepted); return err }
	if present {
		check = func() error { return c.checkPresent(chain) }
	}
	if err := check(); err != nil {
		return nil, err
	}
	return pkcs8Of(chain, key)
}

// CheckUnshare gives the error that Unshare would, and changes nothing.
func (c *Certificate) CheckUnshare(ctx context.Context) error {
	b, _, err := c.bundle(ctx)
	if err != nil {
		return err
	}
	defer b.wipe()
	if b.key == nil {
		return errNotShared
	}
	return nil
}

// bundle gives what all nodes share, empty for nothing.
func (c *Certificate) bundle(ctx context.Context) (*bundle, string, error) {
	text, version, err := c.vault.SharedCertificate(ctx, "")
	defer clear(text)
	if err != nil || len(text) == 0 {
		return &bundle{}, version, err
	}
	b, err := decodeBundle(text)
	return b, version, err
}

func (c *Certificate) keep(ctx context.Context, b *bundle, version string) error {
	text := b.encode()
	defer func() { clear(text) }()
	err := c.vault.KeepSharedCertificate(ctx, text, version)
	if fault.CodeOf(err) != fault.TooLarge || b.previousKey == nil {
		return err
	}
	// There is room for one, and it is the new one.
	clear(text)
	clear(b.previousKey)
	b.previousChain, b.previousKey = nil, nil
	text = b.encode()
	return c.vault.KeepSharedCertificate(ctx, text, version)
}

// checkShared says what is wrong with a chain that all nodes are to serve with.
func (c *Certificate) checkShared(chain []byte, accepted Accepted) (*x509.Certificate, error) {
	leaf, err := c.checkChain(chain, accepted)
	if err != nil {
		return nil, err
	}
	return leaf, c.checkHosts(leaf)
}

// checkPresent says why the certificate with which this node serves cannot be that of all. It is in use, so what it is
// otherwise is not judged.
func (c *Certificate) checkPresent(chain []byte) error {
	list, err := parseChain(chain)
	if err != nil {
		return err
	}
	if err := checkTime(list, c.now()); err != nil {
		return err
	}
	return c.checkHosts(list[0])
}

// checkHosts says whether a certificate is for all that the configuration says of how the nodes are called.
func (c *Certificate) checkHosts(leaf *x509.Certificate) error {
	for _, host := range c.hosts {
		if leaf.VerifyHostname(host) != nil {
			return fault.Errorf(fault.Invalid, "certificate chain: it is not for %s, by which the configuration (xks.url, admin.url) says that the nodes are called", host)
		}
	}
	return nil
}

// requestShared makes a key that waits for its certificate at all nodes.
func (c *Certificate) requestShared(ctx context.Context, raw []byte) error {
	b, version, err := c.bundle(ctx)
	if err != nil {
		return err
	}
	defer b.wipe()
	clear(b.requested)
	b.requested = bytes.Clone(raw)
	return c.keep(ctx, b, version)
}

// installShared takes a chain for the key of the last request, or for the shared one.
func (c *Certificate) installShared(ctx context.Context, chain []byte, accepted Accepted) error {
	b, version, err := c.sharedWith(ctx, chain, accepted)
	if err != nil {
		return err
	}
	defer b.wipe()
	return c.keep(ctx, b, version)
}

// sharedWith gives what all nodes would share with the chain. The caller wipes it.
func (c *Certificate) sharedWith(ctx context.Context, chain []byte, accepted Accepted) (*bundle, string, error) {
	leaf, err := c.checkShared(chain, accepted)
	if err != nil {
		return nil, "", err
	}
	b, version, err := c.bundle(ctx)
	if err != nil {
		return nil, "", err
	}
	switch {
	case b.requested != nil && isOf(leaf, b.requested):
		key := b.requested
		b.requested = nil
		b.replace(chain, key)
	case b.key != nil && isOf(leaf, b.key):
		b.replace(chain, bytes.Clone(b.key))
	default:
		b.wipe()
		return nil, "", fault.Errorf(fault.Invalid, "certificate chain: it is of another key, neither that of the last request nor the one that the nodes share: make a request here, and have that signed")
	}
	return b, version, nil
}

// isOf says whether a certificate is of a key (PKCS #8).
func isOf(leaf *x509.Certificate, raw []byte) bool {
	key := &sharedKey{raw: raw}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(leaf.PublicKey)
}

// bundle is what all nodes share: the chain (PEM), its key, and the key of a request that
// waits for its certificate, or nil (both PKCS #8); and the chain and the key of before, or nil.
type bundle struct {
	chain, key, requested      []byte
	previousChain, previousKey []byte
}

const (
	keyBlock         = "PRIVATE KEY"
	certificateBlock = "CERTIFICATE"
	// Those of before. A node of an earlier release leaves such blocks out.
	previousKeyBlock         = "PREVIOUS PRIVATE KEY"
	previousCertificateBlock = "PREVIOUS CERTIFICATE"
)

func (b *bundle) wipe() {
	clear(b.key)
	clear(b.requested)
	clear(b.previousKey)
}

// replace puts another chain and its key in the place of those that there are, which it keeps unless they are of
// the same certificate. The key is then the bundle's.
func (b *bundle) replace(chain, key []byte) {
	if sameLeaf(b.chain, chain) {
		clear(b.key)
	} else {
		clear(b.previousKey)
		b.previousChain, b.previousKey = b.chain, b.key
	}
	b.chain, b.key = chain, key
}

// encode writes it as PEM; the caller zeroizes that.
func (b *bundle) encode() []byte {
	// It must not grow, which would leave copies.
	out := bytes.NewBuffer(make([]byte, 0, len(b.chain)+2*(len(b.key)+len(b.requested)+len(b.previousChain)+len(b.previousKey))+2048))
	out.Write(bytes.TrimSpace(b.chain))
	out.WriteByte('\n')
	write := func(kind string, raw []byte) {
		if raw != nil {
			_ = pem.Encode(out, &pem.Block{Type: kind, Bytes: raw}) // a Buffer takes all
		}
	}
	write(keyBlock, b.key)
	write(keyBlock, b.requested)
	if b.previousKey != nil {
		for _, der := range ders(b.previousChain) {
			write(previousCertificateBlock, der)
		}
		write(previousKeyBlock, b.previousKey)
	}
	return out.Bytes()
}

// ders gives the certificates of a chain (PEM).
func ders(chain []byte) (all [][]byte) {
	for rest := chain; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return all
		}
		all = append(all, block.Bytes)
	}
}

func decodeBundle(text []byte) (*bundle, error) {
	b := &bundle{}
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch {
		case block.Type == certificateBlock:
			b.chain = append(b.chain, pem.EncodeToMemory(block)...)
		case block.Type == keyBlock && b.key == nil:
			b.key = block.Bytes
		case block.Type == keyBlock && b.requested == nil:
			b.requested = block.Bytes
		case block.Type == previousCertificateBlock:
			b.previousChain = append(b.previousChain, pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: block.Bytes})...)
		case block.Type == previousKeyBlock:
			b.previousKey = block.Bytes
		}
	}
	if leaf, err := leafOf(b.chain); err != nil || b.key == nil || !isOf(leaf, b.key) {
		b.wipe()
		return nil, fault.Errorf(fault.Invalid, "certificate chain: what the nodes share is no certificate with its key")
	}
	return b, nil
}

func leafOf(chain []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(chain)
	if block == nil {
		return nil, fault.Errorf(fault.Invalid, "certificate chain: it has no certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

// serve gives it for handshakes; the key in it is then the server's to zeroize.
func (b *bundle) serve() *serving {
	leaf, _ := leafOf(b.chain) // it was read before
	s := &serving{key: &sharedKey{raw: b.key}, requested: b.requested != nil}
	if b.previousKey != nil {
		s.previous, _ = leafOf(b.previousChain) // nil for none that can be read
	}
	clear(b.requested)
	clear(b.previousKey)
	s.pair = &tls.Certificate{PrivateKey: s.key, Leaf: leaf, Certificate: ders(b.chain)}
	s.key.public = leaf.PublicKey
	return s
}
