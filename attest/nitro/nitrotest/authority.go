// Package nitrotest plays AWS's part: it signs attestation documents under a
// root of its own, and gives a TPM that answers AWS's command with them. It is
// for tests and for the simulated platform; its documents pass only where its
// root is given.
package nitrotest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"

	"holdfast/attest/nitro"
)

// Region is the one that the simulated certificates name.
const Region = "us-sim-1"

// ModuleID is that of documents that name none.
const ModuleID = "i-00000000000000000-tpm0000000000000000"

// Authority is a simulated root. It may be used by several goroutines.
type Authority struct {
	// Root is the SHA-256 of the root's certificate (DER), to be given to
	// [nitro.Verify].
	Root []byte

	root *link
}

// link is a certificate with its key.
type link struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New makes an authority with a key of its own.
func New() *Authority {
	root := (*link)(nil).issue("aws.nitro-enclaves", time.Date(2019, 1, 1, 0, 0, 0, 0, time.UTC), 40*365*24*time.Hour, true, -1)
	digest := sha256.Sum256(root.cert.Raw)
	return &Authority{Root: digest[:], root: root}
}

// issue makes a certificate as AWS's are: P-384, signed with SHA-384. An issuer
// of nil makes a root.
func (l *link) issue(name string, from time.Time, life time.Duration, ca bool, pathLen int) *link {
	key := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"Holdfast simulation, not Amazon"}, CommonName: name},
		NotBefore:             from,
		NotAfter:              from.Add(life),
		BasicConstraintsValid: true,
		IsCA:                  ca,
		MaxPathLen:            pathLen,
		MaxPathLenZero:        pathLen == 0,
		SignatureAlgorithm:    x509.ECDSAWithSHA384,
		KeyUsage:              x509.KeyUsageDigitalSignature,
	}
	if ca {
		template.KeyUsage |= x509.KeyUsageCertSign
	}
	parent, signer := template, key
	if l != nil {
		parent, signer = l.cert, l.key
	}
	der := must(x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer))
	return &link{must(x509.ParseCertificate(der)), key}
}

// payload is a document in CBOR.
type payload struct {
	ModuleID    string         `cbor:"module_id"`
	Digest      string         `cbor:"digest"`
	Timestamp   uint64         `cbor:"timestamp"`
	PCRs        map[int][]byte `cbor:"nitrotpm_pcrs"`
	Certificate []byte         `cbor:"certificate"`
	CABundle    [][]byte       `cbor:"cabundle"`
	PublicKey   []byte         `cbor:"public_key"`
	UserData    []byte         `cbor:"user_data"`
	Nonce       []byte         `cbor:"nonce"`
}

// Sign gives a document as AWS would send it, with certificates of its own that
// are valid at doc.Time, for as long as AWS's. It takes all but the
// certificates from doc; an empty ModuleID or Digest, or a zero Time, is filled
// in.
func (a *Authority) Sign(doc nitro.Document) []byte {
	if doc.ModuleID == "" {
		doc.ModuleID = ModuleID
	}
	if doc.Digest == "" {
		doc.Digest = "SHA384"
	}
	if doc.Time.IsZero() {
		doc.Time = time.Now()
	}
	const hour = time.Hour
	id, _, _ := strings.Cut(doc.ModuleID, "-tpm")
	from := doc.Time.Add(-time.Minute)
	regional := a.root.issue("region."+Region+".aws.nitro-enclaves", from, 20*24*hour, true, 2)
	zonal := regional.issue("zone.zonal."+Region+".aws.nitro-enclaves", from, 6*24*hour, true, 1)
	instance := zonal.issue(id+"."+Region+".aws.nitro-enclaves", from, 24*hour, true, 0)
	leaf := instance.issue(doc.ModuleID+"."+Region+".aws", from, 3*hour, false, -1)

	return sign(leaf.key, must(cbor.Marshal(payload{
		ModuleID: doc.ModuleID, Digest: doc.Digest, Timestamp: uint64(doc.Time.UnixMilli()), PCRs: doc.PCRs,
		Certificate: leaf.cert.Raw, CABundle: [][]byte{a.root.cert.Raw, regional.cert.Raw, zonal.cert.Raw, instance.cert.Raw},
		PublicKey: doc.PublicKey, UserData: doc.UserData, Nonce: doc.Nonce,
	})))
}

func sign(key *ecdsa.PrivateKey, payload []byte) []byte {
	signer := must(cose.NewSigner(cose.AlgorithmES384, key))
	headers := cose.Headers{Protected: cose.ProtectedHeader{cose.HeaderLabelAlgorithm: cose.AlgorithmES384}}
	return must(cose.Sign1Untagged(rand.Reader, signer, headers, payload, nil))
}

// must is for what fails only if the program is wrong.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
