package release

import (
	"bytes"
	"crypto/hpke"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
)

// The protocol between machine and broker: JSON over TLS 1.3, two POST
// requests: first for a nonce, then for one of three things.
//
//	/v1/nonce    {}                         → {"nonce": base64}
//	/v1/release  {"machine", "evidence"}    → {"sealed": base64}
//	/v1/state    {"machine", "evidence"}    → {"state": {"sequence", "digest", "at", "anchored", "since"}}
//	/v1/history  {"machine", "evidence"}    → {"log_key": base64, "records": [line], "more"}
//
// A line is one of the broker's log, with its signature; the newest are sent, the oldest first.
// Evidence that names a state tells the broker that state. The answer is the newest that
// the broker knows of the machine, without "state" if it knows none.
//
// Both sides are pinned: the machine knows the broker by its public key, and
// the broker takes a machine only if the key of its TLS connection is the one
// that the evidence names. An error is {"code", "reason"}.

// maxMessage bounds a request and an answer, in bytes: evidence in Base64.
const maxMessage = 2 << 20

const nonceBytes = 32

type (
	nonceAnswer struct {
		Nonce []byte `json:"nonce"`
	}
	releaseRequest struct {
		// Machine is the name under which the broker has a credential.
		Machine string `json:"machine"`
		// Evidence is an evidence file.
		Evidence []byte `json:"evidence"`
	}
	releaseAnswer struct {
		// Sealed is the encapsulated key and the ciphertext (RFC 9180 section 6.1).
		Sealed []byte `json:"sealed"`
	}
	stateAnswer struct {
		State *KnownState `json:"state,omitempty"`
	}
	historyAnswer struct {
		LogKey  []byte   `json:"log_key"`
		Records []string `json:"records"`
		More    bool     `json:"more,omitempty"`
	}
	errorAnswer struct {
		Code   string `json:"code"`
		Reason string `json:"reason"`
	}
)

func decode(text []byte, into any) error {
	return json.Unmarshal(text, into, json.RejectUnknownMembers(true))
}

// The ciphersuite: X25519 with ML-KEM-768, since a credential lives long, and
// what is recorded today may be read in years.
func kem() hpke.KEM   { return hpke.MLKEM768X25519() }
func kdf() hpke.KDF   { return hpke.HKDFSHA256() }
func aead() hpke.AEAD { return hpke.AES256GCM() }

// info binds a released credential to its machine and its nonce (RFC 9180
// section 5.1).
func info(machine string, nonce []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "holdfast-release/v1 %d %s %x", len(machine), machine, nonce)
	return b.Bytes()
}

// pinPrefix begins a pin, as RFC 7469 section 2.4 writes it.
const pinPrefix = "sha256/"

// Pin names a TLS key: "sha256/" and the Base64 of the SHA-256 of its DER
// SubjectPublicKeyInfo.
func Pin(c *x509.Certificate) string {
	d := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return pinPrefix + base64.StdEncoding.EncodeToString(d[:])
}

// ValidPin says whether s can be a pin.
func ValidPin(s string) bool {
	text, ok := strings.CutPrefix(s, pinPrefix)
	d, err := base64.StdEncoding.DecodeString(text)
	return ok && err == nil && len(d) == sha256.Size
}

// peer gives the certificate of the other side. Its chain means nothing here,
// its key does.
func peer(s *tls.ConnectionState) (*x509.Certificate, error) {
	if s == nil || len(s.PeerCertificates) == 0 {
		return nil, errors.New("the other side shows no certificate")
	}
	return s.PeerCertificates[0], nil
}
