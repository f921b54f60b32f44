package certificate

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"sync"

	"holdfast/appliance/fault"
	"holdfast/appliance/keyring/scrub"
)

// sharedKey is a key that signs handshakes until it is wiped. It rests encoded (PKCS #8) and is
// parsed for each signature, since what the standard library makes of it cannot be zeroized.
type sharedKey struct {
	public crypto.PublicKey

	mu  sync.RWMutex
	raw []byte // nil once it is wiped
}

var errWiped = errors.New("the shared key was wiped: the appliance was locked, or has another one now")

// use calls f with the key, which it must not keep.
func (k *sharedKey) use(f func(crypto.Signer) error) error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.raw == nil {
		return errWiped
	}
	var err error
	scrub.Do(func() {
		var key any
		if key, err = x509.ParsePKCS8PrivateKey(k.raw); err != nil {
			return
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			err = fmt.Errorf("a %T does not sign", key)
			return
		}
		err = f(signer)
	})
	return err
}

// Public implements [crypto.Signer]; nil if it is no key.
func (k *sharedKey) Public() crypto.PublicKey {
	if k.public != nil {
		return k.public
	}
	var public crypto.PublicKey
	_ = k.use(func(s crypto.Signer) error { public = s.Public(); return nil }) // nil says so
	return public
}

// Sign implements [crypto.Signer].
func (k *sharedKey) Sign(random io.Reader, digest []byte, o crypto.SignerOpts) (signature []byte, err error) {
	err = k.use(func(s crypto.Signer) error {
		signature, err = s.Sign(random, digest, o)
		return err
	})
	return signature, err
}

func (k *sharedKey) wipe() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.raw)
	k.raw = nil
}

// pkcs8Of gives the key (PEM) of a chain as PKCS #8; the caller zeroizes it.
func pkcs8Of(chain, key []byte) (raw []byte, err error) {
	scrub.Do(func() {
		var pair tls.Certificate
		if pair, err = tls.X509KeyPair(chain, key); err != nil {
			err = fault.Errorf(fault.Invalid, "private key: it is not that of the certificate: %s", err)
			return
		}
		if raw, err = x509.MarshalPKCS8PrivateKey(pair.PrivateKey); err != nil {
			err = fault.Errorf(fault.Invalid, "private key: it cannot be kept: %s", err)
		}
	})
	return raw, err
}
