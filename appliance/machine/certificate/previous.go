package certificate

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"holdfast/appliance/fault"
)

// previousSuffix is of the file with the chain and the key of before, beside the certificate's. It is one file,
// so that the two are of one moment.
const previousSuffix = ".previous"

var errNoPrevious = fault.Errorf(fault.NotFound, "no certificate of before is kept: one is from the first time on that another is installed")

// Previous gives the certificate that [Certificate.Restore] would bring back; nil if there is none.
func (c *Certificate) Previous() *x509.Certificate {
	if s := c.sharedNow(); s != nil {
		return s.previous
	}
	pair, err := c.previousPair()
	if err != nil {
		return nil
	}
	return pair.Leaf
}

// Restore brings back the certificate of before with its key, and keeps the present one in its place. While the
// nodes share a certificate, all do. Errors: fault.NotFound if none is kept; [fault.Invalid] if it cannot serve
// any more; those of the vault.
func (c *Certificate) Restore(ctx context.Context) error {
	if c.Shared() {
		return c.restoreShared(ctx)
	}
	text, leaf, err := c.restorable()
	if err != nil {
		return err
	}
	defer clear(text)
	chain, key := apart(text)
	defer clear(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	present, presentErr := c.present() // none, if the files cannot be used
	defer clear(present)
	// After a crash in between, [Load] goes on: the certificate is of the key of before.
	if err := errors.Join(replaceFile(c.certFile, chain), replaceFile(c.keyFile, key)); err != nil {
		return fmt.Errorf("bring the certificate of before back: %w", err)
	}
	if presentErr == nil {
		if err := replaceFile(c.certFile+previousSuffix, present); err != nil {
			return fmt.Errorf("keep the present certificate: %w", err)
		}
	}
	v, err := c.stat()
	if err != nil {
		return err
	}
	c.log.Info("the server certificate of before is back", "subject", leaf.Subject.String(), "expires", leaf.NotAfter)
	return c.load(v)
}

// CheckRestore gives the error that Restore would, and changes nothing.
func (c *Certificate) CheckRestore(ctx context.Context) error {
	if c.Shared() {
		b, _, err := c.restorableShared(ctx)
		if err == nil {
			b.wipe()
		}
		return err
	}
	text, _, err := c.restorable()
	clear(text)
	return err
}

// restorable gives the certificate of before with its key, if it can serve. The caller zeroizes it.
func (c *Certificate) restorable() (text []byte, _ *x509.Certificate, err error) {
	if text, err = os.ReadFile(c.certFile + previousSuffix); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, errNoPrevious
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the certificate of before: %w", err)
	}
	pair, err := tls.X509KeyPair(text, text)
	if err == nil {
		err = c.checkPrevious(pair.Leaf)
	}
	if err != nil {
		clear(text)
		return nil, nil, err
	}
	return text, pair.Leaf, nil
}

// checkPrevious says why a certificate of before cannot serve any more.
func (c *Certificate) checkPrevious(leaf *x509.Certificate) error {
	if now := c.now(); now.After(leaf.NotAfter) {
		return fault.Errorf(fault.Invalid, "the certificate of before expired at %s: have a new one signed", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return c.checkNames(leaf)
}

func (c *Certificate) restoreShared(ctx context.Context) error {
	b, version, err := c.restorableShared(ctx)
	if err != nil {
		return err
	}
	defer b.wipe()
	b.chain, b.previousChain = b.previousChain, b.chain
	b.key, b.previousKey = b.previousKey, b.key
	return c.keep(ctx, b, version)
}

// restorableShared gives what all nodes share, if the one before can serve. The caller wipes it.
func (c *Certificate) restorableShared(ctx context.Context) (*bundle, string, error) {
	b, version, err := c.bundle(ctx)
	if err != nil {
		return nil, "", err
	}
	leaf, err := leafOf(b.previousChain)
	switch {
	case b.previousKey == nil:
		err = errNoPrevious
	case err == nil && !isOf(leaf, b.previousKey):
		err = errNoPrevious
	case err == nil:
		err = c.checkPrevious(leaf)
	}
	if err != nil {
		b.wipe()
		return nil, "", err
	}
	return b, version, nil
}

// keepPrevious keeps the present files as the ones of before the next chain, unless they cannot be used or are
// that certificate already: what is kept then is better. The caller holds mu.
func (c *Certificate) keepPrevious(next []byte) error {
	text, err := c.present()
	if err != nil {
		return nil //nolint:nilerr // they are no certificate
	}
	defer clear(text)
	if sameLeaf(text, next) {
		return nil
	}
	return replaceFile(c.certFile+previousSuffix, text)
}

// sameLeaf says whether two chains (PEM) are of the same certificate.
func sameLeaf(a, b []byte) bool {
	one, _ := pem.Decode(a)
	other, _ := pem.Decode(b)
	return one != nil && other != nil && bytes.Equal(one.Bytes, other.Bytes)
}

// present gives the certificate of the files with its key, in one text. The caller zeroizes it.
func (c *Certificate) present() ([]byte, error) {
	chain, err := os.ReadFile(c.certFile)
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(c.keyFile)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	if _, err := tls.X509KeyPair(chain, key); err != nil {
		return nil, err
	}
	text := make([]byte, 0, len(chain)+len(key)+1) // it must not grow, which would leave copies
	return append(append(append(text, bytes.TrimSpace(chain)...), '\n'), key...), nil
}

// previousPair gives the certificate of before with its key.
func (c *Certificate) previousPair() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(c.certFile+previousSuffix, c.certFile+previousSuffix)
	if err != nil {
		return nil, err
	}
	return &pair, nil
}

// apart parts a chain from its key. The caller zeroizes the key.
func apart(text []byte) (chain, key []byte) {
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return chain, key
		}
		switch {
		case block.Type == certificateBlock:
			chain = append(chain, pem.EncodeToMemory(block)...)
		case strings.HasSuffix(block.Type, keyBlock) && key == nil:
			key = pem.EncodeToMemory(block)
			clear(block.Bytes)
		}
	}
}

// finishRestore ends a restoration that was cut off: the certificate is of the key of before.
func (c *Certificate) finishRestore() error {
	chain, err := os.ReadFile(c.certFile)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(c.certFile + previousSuffix)
	if err != nil {
		return err
	}
	defer clear(text)
	if _, err := tls.X509KeyPair(chain, text); err != nil {
		return err
	}
	_, key := apart(text)
	defer clear(key)
	return replaceFile(c.keyFile, key)
}

// fallBack serves with the certificate of before, as the files cannot be used, and says so.
func (c *Certificate) fallBack(why error) error {
	pair, err := c.previousPair()
	if err != nil {
		return fmt.Errorf("%w; and there is no certificate of before to serve with: put the right files there", why)
	}
	c.current = pair
	c.log.Error("the server certificate cannot be used, and the one before is served with: put the right files there, or make it permanent with holdfast certificate restore",
		"error", why, "subject", pair.Leaf.Subject.String(), "expires", pair.Leaf.NotAfter)
	return nil
}

// warn says in the log if a certificate in use would be refused, had it been installed here.
func (c *Certificate) warn(pair *tls.Certificate) {
	if pair == nil || pair.Leaf == nil || signsItself(pair.Leaf) {
		return // that of the beginning, of which it was said
	}
	list := []*x509.Certificate{pair.Leaf}
	for _, der := range pair.Certificate[1:] {
		parent, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		list = append(list, parent)
	}
	if err := c.judge(list, Accepted{OwnAuthority: len(list) > 1, OtherName: true}); err != nil {
		c.log.Warn("the server certificate in use cannot serve AWS KMS", "file", c.certFile, "error", fault.ReasonOf(err))
	}
}
