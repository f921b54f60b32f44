package snp_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	pb "github.com/google/go-sev-guest/proto/sevsnp"
	sevtest "github.com/google/go-sev-guest/testing"
	"github.com/google/go-sev-guest/verify/testdata"
	"github.com/google/go-sev-guest/verify/trust"

	"holdfast/attest/appraisal"
	"holdfast/attest/snp"
)

// vector reads evidence of real hardware.
func vector(t testing.TB, parts ...string) []byte {
	t.Helper()
	dir := os.Getenv("HOLDFAST_VECTORS")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "vectors")
	}
	b, err := os.ReadFile(filepath.Join(append([]string{dir}, parts...)...))
	if err != nil {
		t.Skip("evidence of real hardware is not here:", err)
	}
	return b
}

func appraise(e snp.Evidence, p snp.Policy, x snp.Expectation) *appraisal.Verdict {
	var s appraisal.Sheet
	snp.Verify(&s, e, p, x)
	return s.Verdict()
}

// fails wants exactly these checks to fail.
func fails(t *testing.T, v *appraisal.Verdict, codes ...string) {
	t.Helper()
	if got := v.Failed(); !slices.Equal(got, codes) {
		t.Errorf("failed: %v, want %v (%v)", got, codes, v.Err())
	}
	if (v.Result != appraisal.Fail) != (len(codes) == 0) {
		t.Errorf("the verdict is %s", v.Result)
	}
	if len(v.Checks) != len(snp.Questions()) {
		t.Errorf("%d checks are answered, there are %d", len(v.Checks), len(snp.Questions()))
	}
	for _, c := range v.Checks {
		if strings.Contains(c.Detail, "\n") || (c.Result != appraisal.Pass && c.Detail == "") {
			t.Errorf("%s says %q", c.Code, c.Detail)
		}
	}
}

// june is within the validity of the real certificates.
var june = time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)

// TestAWS: evidence of an EC2 instance passes the default policy.
func TestAWS(t *testing.T) {
	e := snp.Evidence{Report: vector(t, "aws-snp-2026", "report.bin"), VEK: vector(t, "aws-snp-2026", "vlek.der")}
	v := appraise(e, snp.DefaultPolicy(), snp.Expectation{At: june, ReportData: (*[64]byte)(e.Report[0x50:0x90])})
	fails(t, v)
	f := v.Facts["sev_snp"].(*snp.Facts)
	tcb := snp.TCB{Bootloader: 4, TEE: 0, SNP: 29, Microcode: 222}
	if f.CSPID != "CN=cc-us-east-2.amazonaws.com" || f.Reported != tcb || f.Committed != tcb || f.Launch != tcb ||
		f.Firmware != "1.58.1" || f.Debug || f.Version != 5 || f.Product != "Milan" || f.SignedBy != "VLEK" {
		t.Errorf("facts: %+v", f)
	}
	// In no byte may it be another.
	for i := 0; i < len(e.Report); i += every {
		changed := e
		changed.Report = bytes.Clone(e.Report)
		changed.Report[i] ^= 1 << (i % 8)
		if v := appraise(changed, snp.DefaultPolicy(), snp.Expectation{At: june}); v.Result != appraisal.Fail {
			t.Errorf("it passes with another byte %#x", i)
		}
	}
	for i := 0; i < len(e.VEK); i += every {
		changed := e
		changed.VEK = bytes.Clone(e.VEK)
		changed.VEK[i] ^= 1 << (i % 8)
		if v := appraise(changed, snp.DefaultPolicy(), snp.Expectation{At: june}); v.Result != appraisal.Fail {
			t.Errorf("it passes with another byte %d of the certificate", i)
		}
	}
	fails(t, appraise(e, snp.DefaultPolicy(), snp.Expectation{At: june.AddDate(2, 0, 0)}), "E_SNP_TIME")
	other := e
	other.VEK = vector(t, "milan-vcek", "vcek.der")
	if v := appraise(other, snp.DefaultPolicy(), snp.Expectation{At: june}); v.Result != appraisal.Fail || !slices.Contains(v.Failed(), "E_SNP_SIGNATURE") {
		t.Errorf("with another's certificate: %v", v.Failed())
	}
}

// TestVCEK: a chip's own key is not good for shared hosts.
func TestVCEK(t *testing.T) {
	e := snp.Evidence{Report: vector(t, "milan-vcek", "report.bin"), VEK: vector(t, "milan-vcek", "vcek.der")}
	p := snp.DefaultPolicy()
	fails(t, appraise(e, p, snp.Expectation{At: june}), "E_SNP_KEY_KIND", "E_SNP_TCB")
	p.AllowVCEK = true
	p.MinimumTCB = map[string]snp.TCB{"Milan": {Bootloader: 4, SNP: 24, Microcode: 219}}
	fails(t, appraise(e, p, snp.Expectation{At: june}))
}

// TestDebugged: a real report of a machine that may be debugged is refused by
// the most generous policy.
func TestDebugged(t *testing.T) {
	e := snp.Evidence{Report: testdata.AttestationBytes[:abi.ReportSize], VEK: testdata.VcekBytes}
	p := snp.Policy{AllowVCEK: true, MinimumTCB: map[string]snp.TCB{"Milan": {}}, MinimumReportVersion: 2}
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	fails(t, appraise(e, p, snp.Expectation{At: time.Date(2023, 6, 1, 0, 0, 0, 0, time.UTC)}), "E_SNP_DEBUG")
}

// The simulated platform: keys and certificates of the library's test double.
var (
	now     = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	tcb     = kds.TCBParts{BlSpl: 4, SnpSpl: 29, UcodeSpl: 222}
	keys    = sync.OnceValue(sevtest.DefaultAmdKeys)
	cspid   = "CN=cc-eu-west-1.amazonaws.com"
	milan   = uint32(0x00a00f11)
	certify = func(change func(*sevtest.AmdSignerBuilder)) *sevtest.AmdSigner {
		b := &sevtest.AmdSignerBuilder{Keys: keys(), ProductName: "Milan-B1", CSPID: cspid,
			ArkCreationTime: now.AddDate(-3, 0, 0), AskCreationTime: now.AddDate(-2, 0, 0), AsvkCreationTime: now.AddDate(-2, 0, 0),
			VcekCreationTime: now.AddDate(0, -1, 0), VlekCreationTime: now.AddDate(0, -1, 0)}
		b.VlekCustom.Extensions = sevtest.CustomExtensions(tcb, nil, cspid, "Milan-B1")
		b.VcekCustom.Extensions = sevtest.CustomExtensions(tcb, make([]byte, 64), "", "Milan-B1")
		if change != nil {
			change(b)
		}
		s, err := b.TestOnlyCertChain()
		if err != nil {
			panic(err)
		}
		return s
	}
	platform = sync.OnceValue(func() *sevtest.AmdSigner { return certify(nil) })
)

func roots(s *sevtest.AmdSigner) *snp.Roots {
	return snp.SimulatedRoots("Milan", &trust.ProductCerts{Ark: s.Ark, Ask: s.Ask, Asvk: s.Asvk})
}

// newReport is a good one.
func newReport(t testing.TB) *pb.Report {
	t.Helper()
	raw := sevtest.CreateRawReport(&sevtest.TestReportOptions{ReportData: bytes.Repeat([]byte{7}, 64), FMS: milan, Version: 5,
		SignerInfo: abi.SignerInfo{SigningKey: abi.VlekReportSigner}})
	r, err := abi.ReportToProto(raw[:])
	if err != nil {
		t.Fatal(err)
	}
	version, err := kds.ComposeTCBParts(tcb)
	if err != nil {
		t.Fatal(err)
	}
	r.Policy = abi.SnpPolicyToBytes(abi.SnpPolicy{SMT: true})
	r.CurrentTcb, r.ReportedTcb, r.CommittedTcb, r.LaunchTcb = uint64(version), uint64(version), uint64(version), uint64(version)
	r.CurrentMajor, r.CurrentMinor, r.CurrentBuild = 1, 58, 1
	r.CommittedMajor, r.CommittedMinor, r.CommittedBuild = 1, 58, 1
	r.PlatformInfo = 0x27 // as on EC2: SMT, TSME, ECC, alias check
	r.ReportIdMa = bytes.Repeat([]byte{0xff}, 32)
	return r
}

// sign makes evidence of the report, signed by the platform.
func sign(t testing.TB, r *pb.Report, s *sevtest.AmdSigner) snp.Evidence {
	t.Helper()
	r.Signature = make([]byte, abi.SignatureSize)
	raw, err := abi.ReportToAbiBytes(r)
	if err != nil {
		t.Fatal(err)
	}
	info, err := abi.ParseSignerInfo(r.SignerInfo)
	if err != nil {
		t.Fatal(err)
	}
	key, certificate := s.Keys.Vlek, s.Vlek
	if info.SigningKey == abi.VcekReportSigner {
		key, certificate = s.Keys.Vcek, s.Vcek
	}
	digest := sha512.Sum384(abi.SignedComponent(raw))
	a, b, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	if err := abi.SetSignature(a, b, raw); err != nil {
		t.Fatal(err)
	}
	return snp.Evidence{Report: raw, VEK: certificate.Raw}
}

// otherKeys are not those of the library's double, which are always the same.
func otherKeys(t testing.TB) *sevtest.AmdKeys {
	t.Helper()
	authority, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &sevtest.AmdKeys{Ark: authority, Ask: authority, Asvk: authority, Vcek: leaf, Vlek: leaf}
}

func composed(t testing.TB, p kds.TCBParts) uint64 {
	t.Helper()
	v, err := kds.ComposeTCBParts(p)
	if err != nil {
		t.Fatal(err)
	}
	return uint64(v)
}

// TestEachCheck: good evidence passes, and each change to it fails with its own
// code.
func TestEachCheck(t *testing.T) {
	older := kds.TCBParts{BlSpl: 4, SnpSpl: 28, UcodeSpl: 222}
	oldMicrocode := kds.TCBParts{BlSpl: 4, SnpSpl: 29, UcodeSpl: 221}
	newer := kds.TCBParts{BlSpl: 4, SnpSpl: 30, UcodeSpl: 225}
	other := sync.OnceValue(func() *sevtest.AmdSigner {
		return certify(func(b *sevtest.AmdSignerBuilder) {
			b.Keys = otherKeys(t)
		})
	})
	type test struct {
		report   func(*pb.Report)
		signer   func() *sevtest.AmdSigner
		policy   func(*snp.Policy)
		evidence func(*snp.Evidence)
		expect   func(*snp.Expectation)
		codes    []string
	}
	good := bytes.Repeat([]byte{7}, 64)
	tests := map[string]test{
		"good":                               {},
		"firmware that is not committed yet": {report: func(r *pb.Report) { r.CurrentTcb = composed(t, newer); r.CurrentBuild = 2 }},
		"the same, forbidden":                {report: func(r *pb.Report) { r.CurrentTcb = composed(t, newer) }, policy: func(p *snp.Policy) { p.RequireCommittedFirmware = true }, codes: []string{"E_SNP_FIRMWARE"}},
		"runs older than committed":          {report: func(r *pb.Report) { r.CurrentTcb = composed(t, older) }, codes: []string{"E_SNP_FIRMWARE"}},
		"older build than committed":         {report: func(r *pb.Report) { r.CurrentBuild = 0 }, codes: []string{"E_SNP_FIRMWARE"}},
		"debug":                              {report: func(r *pb.Report) { r.Policy |= 1 << 19 }, codes: []string{"E_SNP_DEBUG"}},
		"migration agent allowed":            {report: func(r *pb.Report) { r.Policy |= 1 << 18 }, codes: []string{"E_SNP_MIGRATION"}},
		"migration agent named":              {report: func(r *pb.Report) { r.ReportIdMa = bytes.Repeat([]byte{1, 2}, 16) }, codes: []string{"E_SNP_MIGRATION"}},
		"VMPL 1":                             {report: func(r *pb.Report) { r.Vmpl = 1 }, codes: []string{"E_SNP_VMPL"}},
		"old committed TCB":                  {report: func(r *pb.Report) { r.CommittedTcb = composed(t, older) }, codes: []string{"E_SNP_TCB"}},
		"old TCB at launch":                  {report: func(r *pb.Report) { r.LaunchTcb = composed(t, oldMicrocode) }, codes: []string{"E_SNP_TCB"}},
		"old reported TCB": {report: func(r *pb.Report) { r.ReportedTcb = composed(t, older) }, signer: func() *sevtest.AmdSigner {
			return certify(func(b *sevtest.AmdSignerBuilder) {
				b.VlekCustom.Extensions = sevtest.CustomExtensions(older, nil, cspid, "Milan-B1")
			})
		}, codes: []string{"E_SNP_TCB"}},
		"TCB other than the certificate's":    {report: func(r *pb.Report) { r.ReportedTcb = composed(t, newer) }, codes: []string{"E_SNP_VEK"}},
		"alias check missing":                 {report: func(r *pb.Report) { r.PlatformInfo = 0x07 }, codes: []string{"E_SNP_PLATFORM"}},
		"version 2":                           {report: func(r *pb.Report) { r.Version = 2; r.Cpuid1EaxFms = 0 }, codes: []string{"E_SNP_VERSION"}},
		"Turin":                               {report: func(r *pb.Report) { r.Cpuid1EaxFms = 0x00b00f21 }, codes: []string{"E_SNP_PRODUCT", "E_SNP_CHAIN", "E_SNP_TIME", "E_SNP_VEK", "E_SNP_TCB"}},
		"Genoa's name on Milan's certificate": {report: func(r *pb.Report) { r.Cpuid1EaxFms = 0x00a10f11 }, codes: []string{"E_SNP_CHAIN", "E_SNP_TIME", "E_SNP_VEK"}},
		"VCEK":                                {report: func(r *pb.Report) { r.SignerInfo = 0 }, codes: []string{"E_SNP_KEY_KIND"}},
		"VCEK, allowed":                       {report: func(r *pb.Report) { r.SignerInfo = 0 }, policy: func(p *snp.Policy) { p.AllowVCEK = true }},
		"VCEK of another chip":                {report: func(r *pb.Report) { r.SignerInfo = 0; r.ChipId = bytes.Repeat([]byte{9}, 64) }, policy: func(p *snp.Policy) { p.AllowVCEK = true }, codes: []string{"E_SNP_VEK"}},
		"foreign cloud":                       {policy: func(p *snp.Policy) { p.CSPIDs = []string{"CN=cc-us-east-2.amazonaws.com"} }, codes: []string{"E_SNP_CSP_ID"}},
		"other report data":                   {expect: func(x *snp.Expectation) { x.ReportData = new([64]byte) }, codes: []string{"E_SNP_REPORT_DATA"}},
		"certificate expired":                 {expect: func(x *snp.Expectation) { x.At = now.AddDate(30, 0, 0) }, codes: []string{"E_SNP_TIME"}},
		"certificate of later":                {expect: func(x *snp.Expectation) { x.At = now.AddDate(-4, 0, 0) }, codes: []string{"E_SNP_TIME"}},
		"AMD's roots":                         {expect: func(x *snp.Expectation) { x.Roots = nil }, codes: []string{"E_SNP_CHAIN"}},
		"another's roots":                     {expect: func(x *snp.Expectation) { x.Roots = roots(other()) }, codes: []string{"E_SNP_CHAIN"}},
		"another's certificate":               {evidence: func(e *snp.Evidence) { e.VEK = other().Vlek.Raw }, codes: []string{"E_SNP_CHAIN", "E_SNP_SIGNATURE"}},
		"signature changed":                   {evidence: func(e *snp.Evidence) { e.Report[0x2A0] ^= 1 }, codes: []string{"E_SNP_SIGNATURE"}},
		"known measurement": {report: func(r *pb.Report) { r.Measurement = bytes.Repeat([]byte{1}, 48) }, policy: func(p *snp.Policy) {
			p.Measurements = []snp.Reference{{Name: "firmware A", Value: strings.Repeat("00", 48)}, {Name: "firmware B", Value: strings.Repeat("01", 48)}}
		}},
		"unknown measurement": {report: func(r *pb.Report) { r.Measurement = bytes.Repeat([]byte{2}, 48) }, policy: func(p *snp.Policy) {
			p.Measurements = []snp.Reference{{Name: "firmware A", Value: strings.Repeat("00", 48)}}
		}, codes: []string{"E_SNP_MEASUREMENT"}},
		"host data":           {report: func(r *pb.Report) { r.HostData = bytes.Repeat([]byte{3}, 32) }, policy: func(p *snp.Policy) { p.HostData = strings.Repeat("03", 32) }},
		"other host data":     {policy: func(p *snp.Policy) { p.HostData = strings.Repeat("03", 32) }, codes: []string{"E_SNP_HOST_DATA"}},
		"report cut":          {evidence: func(e *snp.Evidence) { e.Report = e.Report[:1183] }, codes: []string{"E_SNP_FORMAT"}},
		"report extended":     {evidence: func(e *snp.Evidence) { e.Report = append(e.Report, 0) }, codes: []string{"E_SNP_FORMAT"}},
		"no certificate":      {evidence: func(e *snp.Evidence) { e.VEK = nil }, codes: []string{"E_SNP_FORMAT"}},
		"certificate huge":    {evidence: func(e *snp.Evidence) { e.VEK = make([]byte, 1<<20) }, codes: []string{"E_SNP_FORMAT"}},
		"certificate is PEM":  {evidence: func(e *snp.Evidence) { e.VEK = []byte("-----BEGIN CERTIFICATE-----\n") }, codes: []string{"E_SNP_FORMAT"}},
		"no CRL, required":    {policy: func(p *snp.Policy) { p.RequireCRL = true }, codes: []string{"E_SNP_CRL"}},
		"CRL":                 {evidence: func(e *snp.Evidence) { e.CRL = newCRL(t, platform(), now) }},
		"CRL with the issuer": {evidence: func(e *snp.Evidence) { e.CRL = newCRL(t, platform(), now, platform().Asvk.SerialNumber) }, codes: []string{"E_SNP_CRL"}},
		"CRL stale":           {evidence: func(e *snp.Evidence) { e.CRL = newCRL(t, platform(), now.AddDate(-1, 0, 0)) }},
		"CRL by another":      {evidence: func(e *snp.Evidence) { e.CRL = newCRL(t, other(), now) }, codes: []string{"E_SNP_CRL"}},
		"CRL damaged":         {evidence: func(e *snp.Evidence) { e.CRL = []byte("x") }, codes: []string{"E_SNP_FORMAT"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			signer := platform()
			if tt.signer != nil {
				signer = tt.signer()
			}
			r := newReport(t)
			if tt.report != nil {
				tt.report(r)
			}
			e := sign(t, r, signer)
			if tt.evidence != nil {
				tt.evidence(&e)
			}
			p := snp.DefaultPolicy()
			if tt.policy != nil {
				tt.policy(&p)
			}
			if err := p.Validate(); err != nil {
				t.Fatal(err)
			}
			x := snp.Expectation{ReportData: (*[64]byte)(good), At: now, Roots: roots(signer)}
			if tt.expect != nil {
				tt.expect(&x)
			}
			v := appraise(e, p, x)
			if codes := tt.codes; slices.Contains(codes, "E_SNP_FORMAT") {
				if !slices.Equal(v.Failed(), codes) || v.Result != appraisal.Fail {
					t.Errorf("failed: %v, %s", v.Failed(), v.Result)
				}
				return
			}
			fails(t, v, tt.codes...)
			if name == "known measurement" && !strings.Contains(fmt.Sprint(v.Checks), "matches firmware B") {
				t.Errorf("the name of the measurement is not told: %v", v.Checks)
			}
		})
	}
}

// newCRL makes a list of revocations by the platform's root.
func newCRL(t testing.TB, s *sevtest.AmdSigner, at time.Time, revoked ...*big.Int) []byte {
	t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: at.AddDate(0, 0, -1), NextUpdate: at.AddDate(0, 1, 0), SignatureAlgorithm: x509.SHA384WithRSAPSS}
	for _, n := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: at})
	}
	issuer := *s.Ark
	issuer.KeyUsage |= x509.KeyUsageCRLSign
	if issuer.SubjectKeyId == nil {
		issuer.SubjectKeyId = []byte{1}
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, &issuer, s.Keys.Ark)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestPolicy: what is wrong with one is said.
func TestPolicy(t *testing.T) {
	if err := snp.DefaultPolicy().Validate(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*snp.Policy){
		"csp_ids":                func(p *snp.Policy) { p.CSPIDs = nil },
		"empty name":             func(p *snp.Policy) { p.CSPIDs = []string{""} },
		"minimum_tcb":            func(p *snp.Policy) { p.MinimumTCB = nil },
		"Turin":                  func(p *snp.Policy) { p.MinimumTCB = map[string]snp.TCB{"Turin": {}} },
		"minimum_report_version": func(p *snp.Policy) { p.MinimumReportVersion = 9 },
		"measurements":           func(p *snp.Policy) { p.Measurements = []snp.Reference{{Name: "x", Value: "00"}} },
		"host_data":              func(p *snp.Policy) { p.HostData = "xyz" },
	} {
		p := snp.DefaultPolicy()
		change(&p)
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// device is a provider that gives what it was given.
type device []byte

func (d device) GetRawQuoteAtLevel([64]byte, uint) ([]byte, error) { return d, nil }

// TestCollect takes report and certificate apart, whichever key signed.
func TestCollect(t *testing.T) {
	table, err := platform().CertTableBytes()
	if err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[abi.ReportSigner]*x509.Certificate{abi.VlekReportSigner: platform().Vlek, abi.VcekReportSigner: platform().Vcek} {
		r := newReport(t)
		r.SignerInfo = abi.ComposeSignerInfo(abi.SignerInfo{SigningKey: kind})
		e := sign(t, r, platform())
		got, err := snp.Collect(device(append(bytes.Clone(e.Report), table...)), [64]byte{})
		if err != nil || !bytes.Equal(got.Report, e.Report) || !bytes.Equal(got.VEK, want.Raw) {
			t.Errorf("%v: %v", kind, err)
		}
		for _, n := range []int{0, 100, abi.ReportSize, abi.ReportSize + 10} {
			if _, err := snp.Collect(device(append(bytes.Clone(e.Report), table...)[:n]), [64]byte{}); err == nil {
				t.Errorf("%v: a quote of %d bytes is taken", kind, n)
			}
		}
	}
}

// FuzzVerify: no bytes make it panic, and what passes says what was signed.
// (Each process of the fuzzer has made its own signatures, with the same keys.)
func FuzzVerify(f *testing.F) {
	e := sign(f, newReport(f), platform())
	f.Add(e.Report, e.VEK, newCRL(f, platform(), now))
	f.Add(e.Report, platform().Vcek.Raw, []byte{})
	p := snp.DefaultPolicy()
	x := snp.Expectation{At: now, Roots: roots(platform())}
	const signed = 0x2A0 // bytes of a report that the signature covers
	f.Fuzz(func(t *testing.T, report, vek, crl []byte) {
		v := appraise(snp.Evidence{Report: report, VEK: vek, CRL: crl}, p, x)
		if v.Result != appraisal.Fail && !bytes.Equal(report[:signed], e.Report[:signed]) {
			t.Errorf("passes: %x", report)
		}
	})
}
