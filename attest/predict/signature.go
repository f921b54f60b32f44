package predict

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	tag "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidIndirectData  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4} // SPC_INDIRECT_DATA_OBJID
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidSHA256        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
)

// errSignature says that a structure cannot be read.
var errSignature = errors.New("it is no Authenticode signature in PKCS#7, or is damaged; sign the image again")

// verifySignature checks an Authenticode signature (PKCS#7 1.5, RFC 2315;
// Authenticode, "PKCS #7 SignedData") over the file with the digest, and gives the
// signer's certificate and those of the structure that lead from it upwards. It
// takes what firmware takes: RSA with SHA-256.
func verifySignature(der, digest []byte) ([]*x509.Certificate, error) {
	s, err := parseSignedData(der)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(s.imageDigest, digest) {
		return nil, errors.New("it is over another image: this one was changed after it was signed; sign it again")
	}
	content := sha256.Sum256(s.content)
	if !bytes.Equal(s.messageDigest, content[:]) {
		return nil, errSignature
	}
	signer := s.find(func(c *x509.Certificate) bool {
		return bytes.Equal(c.RawIssuer, s.issuer) && c.SerialNumber.Cmp(s.serial) == 0
	})
	if signer == nil {
		return nil, errors.New("it lacks the signer's certificate; sign the image again")
	}
	if err := signer.CheckSignature(x509.SHA256WithRSA, s.attributes, s.signature); err != nil {
		return nil, errors.New("it does not verify with RSA and SHA-256 by the certificate that it names; sign the image again, with an RSA key")
	}
	chain := []*x509.Certificate{signer}
	for range len(s.certificates) {
		last := chain[len(chain)-1]
		issuer := s.find(func(c *x509.Certificate) bool { return !c.Equal(last) && last.CheckSignatureFrom(c) == nil })
		if issuer == nil {
			break
		}
		chain = append(chain, issuer)
	}
	return chain, nil
}

// signedData is what of the structure is needed.
type signedData struct {
	content       []byte // SpcIndirectDataContent, without tag and length
	imageDigest   []byte
	certificates  []*x509.Certificate
	issuer        []byte
	serial        *big.Int
	attributes    []byte // as they are signed: a SET
	messageDigest []byte
	signature     []byte
}

func (s *signedData) find(is func(*x509.Certificate) bool) *x509.Certificate {
	for _, c := range s.certificates {
		if is(c) {
			return c
		}
	}
	return nil
}

func parseSignedData(der []byte) (*signedData, error) {
	var (
		s                          signedData
		explicit0                  = tag.Tag(0).ContextSpecific().Constructed()
		explicit1                  = tag.Tag(1).ContextSpecific().Constructed()
		input                      = cryptobyte.String(der) // zeros may follow
		info, wrapped, signed      cryptobyte.String
		content, indirect          cryptobyte.String
		certificates, signers, one cryptobyte.String
		kind, contentKind          asn1.ObjectIdentifier
		version                    int
	)
	if !input.ReadASN1(&info, tag.SEQUENCE) || !info.ReadASN1ObjectIdentifier(&kind) || !kind.Equal(oidSignedData) ||
		!info.ReadASN1(&wrapped, explicit0) || !wrapped.ReadASN1(&signed, tag.SEQUENCE) ||
		!signed.ReadASN1Integer(&version) || !signed.SkipASN1(tag.SET) ||
		!signed.ReadASN1(&content, tag.SEQUENCE) || !content.ReadASN1ObjectIdentifier(&contentKind) || !contentKind.Equal(oidIndirectData) ||
		!content.ReadASN1(&wrapped, explicit0) || !wrapped.ReadASN1(&indirect, tag.SEQUENCE) ||
		!signed.ReadOptionalASN1(&certificates, nil, explicit0) || !signed.SkipOptionalASN1(explicit1) ||
		!signed.ReadASN1(&signers, tag.SET) || !signers.ReadASN1(&one, tag.SEQUENCE) || !signers.Empty() {
		return nil, errSignature
	}
	s.content = bytes.Clone(indirect)
	if !s.readIndirect(indirect) || !s.readSigner(one, explicit0) {
		return nil, errSignature
	}
	for !certificates.Empty() {
		var c cryptobyte.String
		if !certificates.ReadASN1Element(&c, tag.SEQUENCE) {
			return nil, errSignature
		}
		parsed, err := x509.ParseCertificate(c)
		if err != nil {
			return nil, errSignature
		}
		s.certificates = append(s.certificates, parsed)
	}
	return &s, nil
}

// readIndirect reads SpcIndirectDataContent: of what kind the file is, and its
// digest.
func (s *signedData) readIndirect(indirect cryptobyte.String) bool {
	var digestInfo cryptobyte.String
	return indirect.SkipASN1(tag.SEQUENCE) && indirect.ReadASN1(&digestInfo, tag.SEQUENCE) &&
		readSHA256(&digestInfo) && digestInfo.ReadASN1Bytes(&s.imageDigest, tag.OCTET_STRING)
}

// readSHA256 reads an AlgorithmIdentifier, which must be SHA-256's.
func readSHA256(from *cryptobyte.String) bool {
	var algorithm cryptobyte.String
	var oid asn1.ObjectIdentifier
	return from.ReadASN1(&algorithm, tag.SEQUENCE) && algorithm.ReadASN1ObjectIdentifier(&oid) && oid.Equal(oidSHA256)
}

// readSigner reads SignerInfo.
func (s *signedData) readSigner(signer cryptobyte.String, attributesTag tag.Tag) bool {
	var name, issuer, attributes cryptobyte.String
	var version int
	s.serial = new(big.Int)
	if !signer.ReadASN1Integer(&version) ||
		!signer.ReadASN1(&name, tag.SEQUENCE) || !name.ReadASN1Element(&issuer, tag.SEQUENCE) || !name.ReadASN1Integer(s.serial) ||
		!readSHA256(&signer) ||
		!signer.ReadASN1Element(&attributes, attributesTag) ||
		!signer.SkipASN1(tag.SEQUENCE) || !signer.ReadASN1Bytes(&s.signature, tag.OCTET_STRING) {
		return false
	}
	s.issuer = issuer
	s.attributes = bytes.Clone(attributes)
	s.attributes[0] = byte(tag.SET) // they are signed with this tag (RFC 2315, section 9.3)
	if !attributes.ReadASN1(&attributes, attributesTag) {
		return false
	}
	for !attributes.Empty() {
		var attribute, values cryptobyte.String
		var kind asn1.ObjectIdentifier
		if !attributes.ReadASN1(&attribute, tag.SEQUENCE) || !attribute.ReadASN1ObjectIdentifier(&kind) || !attribute.ReadASN1(&values, tag.SET) {
			return false
		}
		if kind.Equal(oidMessageDigest) && !values.ReadASN1Bytes(&s.messageDigest, tag.OCTET_STRING) {
			return false
		}
	}
	return s.messageDigest != nil
}
