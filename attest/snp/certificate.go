package snp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// The extensions of the certificates of VCEKs and VLEKs (AMD 57230, section 3.1), under
// AMD's arc.
var (
	arc           = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}
	oidStructure  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 1}
	oidProduct    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 2}
	oidBootloader = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 1}
	oidTEE        = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 2}
	oidSNP        = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 3}
	oidMicrocode  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 8}
	oidFMC        = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 9}
	oidHWID       = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 4}
	oidCSP        = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 5}

	// spare are levels of the TCB that have no name (SPL 4 to 7), and are zero.
	spare = []asn1.ObjectIdentifier{
		{1, 3, 6, 1, 4, 1, 3704, 1, 3, 4}, {1, 3, 6, 1, 4, 1, 3704, 1, 3, 5},
		{1, 3, 6, 1, 4, 1, 3704, 1, 3, 6}, {1, 3, 6, 1, 4, 1, 3704, 1, 3, 7},
	}
)

// endorsement is what a certificate says of the key that signs reports.
type endorsement struct {
	key *ecdsa.PublicKey
	// product is the line that it names, called what it calls it.
	product *product
	called  string
	tcb     TCB
	// hwid is the chip's ID, of a VCEK; csp the cloud provider, of a VLEK.
	hwid []byte
	csp  string
	// unknown are extensions of AMD's that this program does not know.
	unknown []Unknown
}

// readEndorsement reads the certificate of a key of the kind.
func readEndorsement(c *x509.Certificate, kind signer) (*endorsement, error) {
	all := map[string][]byte{}
	for _, e := range c.Extensions { // each once: x509 takes no other certificate
		all[e.Id.String()] = e.Value
	}
	x := &extensions{all: all, read: map[string]bool{oidStructure.String(): true}}
	e := &endorsement{called: x.text(oidProduct), tcb: TCB{Bootloader: x.level(oidBootloader), TEE: x.level(oidTEE), SNP: x.level(oidSNP), Microcode: x.level(oidMicrocode)}}
	if x.has(oidFMC) {
		e.tcb.FMC = new(x.level(oidFMC))
	}
	for _, id := range spare {
		if x.has(id) && x.level(id) != 0 {
			x.fail("%s is a level that has no name, and is not 0", id)
		}
	}
	e.product = productCalled(e.called)
	switch kind {
	case vcek:
		e.hwid = x.chipID()
		if x.has(oidCSP) {
			x.fail("it names a cloud provider, as the certificate of a VCEK does not")
		}
	case vlek:
		e.csp = x.text(oidCSP)
		if x.has(oidHWID) {
			x.fail("it names a chip, as the certificate of a VLEK does not")
		}
	default:
		x.fail("nothing is known of the certificate of a key that is %v", kind)
	}
	if want := "SEV-" + kind.String(); c.Subject.CommonName != want {
		x.fail("it is for %.40q, not %q", c.Subject.CommonName, want)
	}
	if c.IsCA || len(c.UnhandledCriticalExtensions) > 0 || c.SignatureAlgorithm != x509.SHA384WithRSAPSS {
		x.fail("it is not of the form that AMD gives: no authority, nothing critical, signed by RSA-PSS with SHA-384")
	}
	key, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return nil, errors.New("its key is not on the curve P-384")
	}
	e.key, e.unknown = key, x.rest(c)
	if x.err != nil {
		return e, x.err
	}
	return e, nil
}

// extensions reads those of a certificate, and keeps the first error.
type extensions struct {
	all  map[string][]byte
	read map[string]bool
	err  error
}

func (x *extensions) fail(format string, args ...any) {
	if x.err == nil {
		x.err = fmt.Errorf(format, args...)
	}
}

func (x *extensions) has(id asn1.ObjectIdentifier) bool {
	_, ok := x.all[id.String()]
	return ok
}

// value gives the bytes of an extension that must be there.
func (x *extensions) value(id asn1.ObjectIdentifier) []byte {
	v, ok := x.all[id.String()]
	if x.read[id.String()] = true; !ok {
		x.fail("it has no extension %s", id)
	}
	return v
}

func (x *extensions) level(id asn1.ObjectIdentifier) uint8 {
	var n int
	if rest, err := asn1.Unmarshal(x.value(id), &n); err != nil || len(rest) > 0 || n < 0 || n > 255 {
		x.fail("its extension %s is not a number from 0 to 255", id)
		return 0
	}
	return uint8(n)
}

func (x *extensions) text(id asn1.ObjectIdentifier) string {
	var s string
	v := x.value(id)
	rest, err := asn1.UnmarshalWithParams(v, &s, "ia5")
	if err != nil || len(rest) > 0 || s == "" || v[0] != asn1.TagIA5String {
		x.fail("its extension %s is not a text", id)
	}
	return s
}

// chipID gives the chip's ID. AMD writes it without tag and length, which is allowed for
// here as well: no ID is so long as another with both.
func (x *extensions) chipID() []byte {
	v := x.value(oidHWID)
	isID := func(b []byte) bool {
		return slices.ContainsFunc(products, func(p *product) bool { return p.chipID == len(b) })
	}
	if isID(v) {
		return v
	}
	var octets []byte
	if rest, err := asn1.Unmarshal(v, &octets); err != nil || len(rest) > 0 || !isID(octets) {
		x.fail("its extension %s is not the ID of a chip", oidHWID)
	}
	return octets
}

// rest gives the extensions of AMD's that were not read.
func (x *extensions) rest(c *x509.Certificate) (unknown []Unknown) {
	for _, e := range c.Extensions {
		if len(e.Id) >= len(arc) && e.Id[:len(arc)].Equal(arc) && !x.read[e.Id.String()] {
			unknown = append(unknown, Unknown{"extension " + e.Id.String() + " of the certificate", hex.EncodeToString(e.Value)})
		}
	}
	return unknown
}
