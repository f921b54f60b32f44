package audit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"holdfast/appliance/fault"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
)

// Signer signs checkpoints. It is [note.Signer].
type Signer interface {
	Name() string
	KeyHash() uint32
	Sign(msg []byte) ([]byte, error)
}

// algECDSA marks ECDSA on P-256 with SHA-256 in a key hash and in a verifier
// key. C2SP's signed-note has 0xff for types that it has not assigned, and asks
// for a long name after it. Its own type for ECDSA, 0x02, leaves the key's name
// out of the key hash.
const algECDSA = "\xffholdfast/ecdsa-p256-sha256\n"

// ecdsaKey is what signer and verifier share. Its hash is, as C2SP's
// signed-note recommends,
//
//	SHA-256(name || "\n" || 0xff || "holdfast/ecdsa-p256-sha256\n" || SPKI)[:4]
//
// read as a big-endian number. SPKI is the public key as a DER encoded
// SubjectPublicKeyInfo.
type ecdsaKey struct {
	name string
	hash uint32
	spki []byte
}

func newECDSAKey(name string, pub *ecdsa.PublicKey) (ecdsaKey, error) {
	if name == "" || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsSpace) || strings.Contains(name, "+") {
		return ecdsaKey{}, fault.Errorf(fault.Invalid, "%q cannot be the name of a key; give one without spaces and plus signs", name)
	}
	if pub == nil || pub.Curve != elliptic.P256() {
		return ecdsaKey{}, fault.Errorf(fault.Invalid, "the key %s is not on the curve P-256", name)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return ecdsaKey{}, fault.Wrapf(fault.Invalid, err, "the key %s cannot be used", name)
	}
	sum := sha256.Sum256([]byte(name + "\n" + algECDSA + string(spki)))
	return ecdsaKey{name: name, hash: binary.BigEndian.Uint32(sum[:]), spki: spki}, nil
}

func (k ecdsaKey) Name() string    { return k.name }
func (k ecdsaKey) KeyHash() uint32 { return k.hash }

// VerifierKey gives the key in C2SP's form, one line that can be handed on:
// name, key hash in hexadecimal, and base64 of type and public key, joined by
// plus signs.
func (k ecdsaKey) VerifierKey() string {
	return fmt.Sprintf("%s+%08x+%s", k.name, k.hash, base64.StdEncoding.EncodeToString([]byte(algECDSA+string(k.spki))))
}

// ECDSAVerifier checks what an [ECDSASigner] has signed. It is a [note.Verifier].
type ECDSAVerifier struct {
	ecdsaKey
	pub *ecdsa.PublicKey
}

// NewECDSAVerifier makes a verifier of a public key on P-256.
func NewECDSAVerifier(name string, pub *ecdsa.PublicKey) (*ECDSAVerifier, error) {
	k, err := newECDSAKey(name, pub)
	if err != nil {
		return nil, err
	}
	return &ECDSAVerifier{ecdsaKey: k, pub: pub}, nil
}

// Verify says whether sig is the key's signature of msg.
func (v *ECDSAVerifier) Verify(msg, sig []byte) bool {
	digest := sha256.Sum256(msg)
	return ecdsa.VerifyASN1(v.pub, digest[:], sig)
}

// ECDSASigner signs with a key that may be in a TPM. It is a [Signer].
type ECDSASigner struct {
	ecdsaKey
	key crypto.Signer
}

// NewECDSASigner makes a signer of a key on P-256. Signatures are ASN.1, as
// crypto.Signer gives them for ECDSA, of the SHA-256 of the message.
func NewECDSASigner(name string, key crypto.Signer) (*ECDSASigner, error) {
	pub, ok := key.Public().(*ecdsa.PublicKey)
	if !ok {
		return nil, fault.Errorf(fault.Invalid, "the key %s is not an ECDSA key", name)
	}
	k, err := newECDSAKey(name, pub)
	if err != nil {
		return nil, err
	}
	return &ECDSASigner{ecdsaKey: k, key: key}, nil
}

// Sign signs msg.
func (s *ECDSASigner) Sign(msg []byte) ([]byte, error) {
	digest := sha256.Sum256(msg)
	return s.key.Sign(rand.Reader, digest[:], crypto.SHA256)
}

// ParseVerifierKey reads a verifier key in C2SP's form: one of [ECDSASigner], or
// an Ed25519 key.
func ParseVerifierKey(line string) (note.Verifier, error) {
	name, rest, _ := strings.Cut(strings.TrimSpace(line), "+")
	hash, b64, _ := strings.Cut(rest, "+")
	key, err := base64.StdEncoding.DecodeString(b64)
	if err != nil {
		return nil, fault.Wrapf(fault.Invalid, err, "a verifier key is not of the form name+hash+base64")
	}
	spki, ok := strings.CutPrefix(string(key), algECDSA)
	if !ok {
		v, err := note.NewVerifier(strings.TrimSpace(line))
		if err != nil {
			return nil, fault.Wrapf(fault.Invalid, err, "a verifier key cannot be read")
		}
		return v, nil
	}
	pub, err := x509.ParsePKIXPublicKey([]byte(spki))
	if err != nil {
		return nil, fault.Wrapf(fault.Invalid, err, "a verifier key has no public key")
	}
	ec, _ := pub.(*ecdsa.PublicKey)
	v, err := NewECDSAVerifier(name, ec)
	if err != nil {
		return nil, err
	}
	if n, err := strconv.ParseUint(hash, 16, 32); err != nil || uint32(n) != v.hash {
		return nil, fault.Errorf(fault.Invalid, "the hash of the verifier key %s is not that of its public key", name)
	}
	return v, nil
}
