// Package snptest stands for AMD in tests: it certifies keys and signs SEV-SNP reports
// of each product line and of any version, under roots that nobody else trusts.
package snptest

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"math/big"
	"slices"
	"time"

	sevtest "github.com/google/go-sev-guest/testing"
	"github.com/google/go-sev-guest/verify/trust"

	"holdfast/attest/snp"
)

// CSP is the cloud provider that the VLEKs name.
const CSP = "CN=cc-eu-west-1.amazonaws.com"

// Authority is AMD for one product line: root, intermediates and the keys of one chip.
type Authority struct {
	Line           string
	Ark, Ask, Asvk *x509.Certificate
	// ChipID is the chip's, as long as the product line has it.
	ChipID []byte

	keys *sevtest.AmdKeys
}

// New makes the authority of a product line, valid for years around the time. Its keys
// are those of the library's doubles: to make others takes seconds.
func New(line string, at time.Time) (*Authority, error) {
	a := &Authority{Line: line, keys: sevtest.DefaultAmdKeys(), ChipID: make([]byte, 64)}
	if line == "Turin" {
		a.ChipID = make([]byte, 8)
	}
	for i := range a.ChipID {
		a.ChipID[i] = byte(0xc0 + i)
	}
	var err error
	if a.Ark, err = a.authority("ARK-"+line, 1, at, nil, a.keys.Ark, a.keys.Ark); err != nil {
		return nil, err
	}
	if a.Ask, err = a.authority("SEV-"+line, 2, at, a.Ark, a.keys.Ask, a.keys.Ark); err != nil {
		return nil, err
	}
	a.Asvk, err = a.authority("SEV-VLEK-"+line, 3, at, a.Ark, a.keys.Asvk, a.keys.Ark)
	return a, err
}

// Roots are what trusts the authority.
func (a *Authority) Roots() *snp.Roots {
	return snp.SimulatedRoots(a.Line, &trust.ProductCerts{Ark: a.Ark, Ask: a.Ask, Asvk: a.Asvk})
}

func (a *Authority) authority(name string, serial int64, at time.Time, issuer *x509.Certificate, key, by *rsa.PrivateKey) (*x509.Certificate, error) {
	c := &x509.Certificate{Subject: pkix.Name{CommonName: name}, SerialNumber: big.NewInt(serial), SignatureAlgorithm: x509.SHA384WithRSAPSS,
		NotBefore: at.AddDate(-3, 0, 0), NotAfter: at.AddDate(20, 0, 0), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte(name)}
	if issuer == nil {
		issuer = c
	}
	return sign(c, issuer, &key.PublicKey, by)
}

func sign(c, issuer *x509.Certificate, key any, by *rsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, c, issuer, key, by)
	if err != nil {
		return nil, fmt.Errorf("a double's certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// Certificate is what one of a VCEK or VLEK says.
type Certificate struct {
	TCB     snp.TCB
	Product string
	// ChipID is of a VCEK, CSP of a VLEK: the other is empty.
	ChipID []byte
	CSP    string
	// Extra are more extensions.
	Extra []pkix.Extension
}

// arc is AMD's.
var arc = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}

// Certify certifies the chip's key, or, if the certificate names a provider, that which
// the provider loads.
func (a *Authority) Certify(c Certificate, at time.Time) (*x509.Certificate, error) {
	var extensions []pkix.Extension
	add := func(value any, parameters string, id ...int) {
		der, err := asn1.MarshalWithParams(value, parameters)
		if err != nil {
			panic(err) // numbers and texts can be written
		}
		extensions = append(extensions, pkix.Extension{Id: slices.Concat(arc, id), Value: der})
	}
	add(0, "", 1)
	add(c.Product, "ia5", 2)
	add(int(c.TCB.Bootloader), "", 3, 1)
	add(int(c.TCB.TEE), "", 3, 2)
	add(int(c.TCB.SNP), "", 3, 3)
	for i := 4; i <= 7; i++ {
		add(0, "", 3, i)
	}
	add(int(c.TCB.Microcode), "", 3, 8)
	if c.TCB.FMC != nil {
		add(int(*c.TCB.FMC), "", 3, 9)
	}
	issuer, name, key, by := a.Ask, "SEV-VCEK", &a.keys.Vcek.PublicKey, a.keys.Ask
	if c.CSP != "" {
		issuer, name, key, by = a.Asvk, "SEV-VLEK", &a.keys.Vlek.PublicKey, a.keys.Asvk
		add(c.CSP, "ia5", 5)
	}
	if len(c.ChipID) > 0 { // without tag and length, as AMD writes it
		extensions = append(extensions, pkix.Extension{Id: slices.Concat(arc, []int{4}), Value: c.ChipID})
	}
	return sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, SerialNumber: big.NewInt(0), SignatureAlgorithm: x509.SHA384WithRSAPSS,
		NotBefore: at.AddDate(0, -1, 0), NotAfter: at.AddDate(1, 0, 0), ExtraExtensions: append(extensions, c.Extra...)}, issuer, key, by)
}

// Report is one that is not signed yet, 1184 bytes (AMD 56860, table 23).
type Report []byte

// The places in a report, in bytes, that tests write to.
const (
	AtVersion      = 0x00
	AtPolicy       = 0x08
	AtVMPL         = 0x30
	AtAlgorithm    = 0x34
	AtCurrentTCB   = 0x38
	AtPlatform     = 0x40
	AtFlags        = 0x48
	AtData         = 0x50
	AtMeasurement  = 0x90
	AtHostData     = 0xc0
	AtMigration    = 0x160
	AtReportedTCB  = 0x180
	AtCPU          = 0x188
	AtChipID       = 0x1a0
	AtCommittedTCB = 0x1e0
	AtCurrent      = 0x1e8
	AtCommitted    = 0x1ec
	AtLaunchTCB    = 0x1f0
	AtMitigations  = 0x1f8
	AtSignature    = 0x2a0
)

// Put32 and Put64 write a number.
func (r Report) Put32(at int, v uint32) { binary.LittleEndian.PutUint32(r[at:], v) }

// Put64 writes a number.
func (r Report) Put64(at int, v uint64) { binary.LittleEndian.PutUint64(r[at:], v) }

// PutTCB writes a TCB at the place, as its product line has it: with an FMC as Turin.
func (r Report) PutTCB(at int, t snp.TCB) {
	b := r[at : at+8]
	clear(b)
	b[7] = t.Microcode
	if t.FMC != nil {
		b[0], b[1], b[2], b[3] = *t.FMC, t.Bootloader, t.TEE, t.SNP
		return
	}
	b[0], b[1], b[6] = t.Bootloader, t.TEE, t.SNP
}

// PutTCBs writes the same for all of them.
func (r Report) PutTCBs(t snp.TCB) {
	for _, at := range []int{AtCurrentTCB, AtReportedTCB, AtCommittedTCB, AtLaunchTCB} {
		r.PutTCB(at, t)
	}
}

// NewReport makes a good report of the version by the key that the provider loads, as on
// EC2, of a processor of that family and model.
func (a *Authority) NewReport(version uint32, family, model byte, t snp.TCB, data [64]byte) Report {
	r := make(Report, 0x4a0)
	r.Put32(AtVersion, version)
	r.Put64(AtPolicy, 0x30000)
	r.Put32(AtAlgorithm, 1)
	r.Put64(AtPlatform, 0x27) // SMT, TSME, ECC, alias check
	r.Put32(AtFlags, 1<<2)    // VLEK
	copy(r[AtData:], data[:])
	for i := range 32 {
		r[AtMigration+i] = 0xff
	}
	if version >= 3 {
		r[AtCPU], r[AtCPU+1], r[AtCPU+2] = family, model, 1
	}
	copy(r[AtCurrent:], []byte{1, 58, 1})
	copy(r[AtCommitted:], []byte{1, 58, 1})
	r.PutTCBs(t)
	return r
}

// ByChip makes the report one by the chip's own key.
func (a *Authority) ByChip(r Report) {
	r.Put32(AtFlags, 0)
	copy(r[AtChipID:AtCommittedTCB], a.ChipID)
}

// Sign signs the report by the key that it names, and by the chip's if it names another.
func (a *Authority) Sign(r Report, certificate *x509.Certificate) (snp.Evidence, error) {
	key := a.keys.Vcek
	if binary.LittleEndian.Uint32(r[AtFlags:])>>2&7 == 1 {
		key = a.keys.Vlek
	}
	raw := slices.Clone(r)
	clear(raw[AtSignature:])
	digest := sha512.Sum384(raw[:AtSignature])
	x, y, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return snp.Evidence{}, err
	}
	for i, n := range []*big.Int{x, y} {
		b := n.FillBytes(make([]byte, 72))
		slices.Reverse(b)
		copy(raw[AtSignature+72*i:], b)
	}
	return snp.Evidence{Report: raw, VEK: certificate.Raw}, nil
}

// Revoke makes a list of revocations, of the time, by the root.
func (a *Authority) Revoke(at, until time.Time, revoked ...*x509.Certificate) ([]byte, error) {
	list := &x509.RevocationList{Number: big.NewInt(at.Unix()), ThisUpdate: at, NextUpdate: until, SignatureAlgorithm: x509.SHA384WithRSAPSS}
	for _, c := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: at})
	}
	return x509.CreateRevocationList(rand.Reader, list, a.Ark, a.keys.Ark)
}
