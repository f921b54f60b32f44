package snp_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"holdfast/attest/appraisal"
	"holdfast/attest/snp"
	"holdfast/attest/snp/snptest"
)

// machine is a kind of processor, and what its reports and certificates say.
type machine struct {
	line          string
	family, model byte
	called        string // in the certificate
	version       uint32
	tcb           snp.TCB
	// lower and higher are the TCB with one part lower, and with one higher.
	lower, higher []snp.TCB
}

var (
	levels = snp.TCB{Bootloader: 10, TEE: 1, SNP: 29, Microcode: 222}
	// around has each part lower, and each higher.
	around = func(t snp.TCB) (lower, higher []snp.TCB) {
		for _, part := range []func(*snp.TCB) *uint8{
			func(t *snp.TCB) *uint8 { return &t.Bootloader }, func(t *snp.TCB) *uint8 { return &t.TEE }, func(t *snp.TCB) *uint8 { return &t.SNP },
			func(t *snp.TCB) *uint8 { return &t.Microcode }, func(t *snp.TCB) *uint8 { return t.FMC },
		} {
			l, h := t, t
			if t.FMC != nil {
				l.FMC, h.FMC = new(*t.FMC), new(*t.FMC)
			}
			if part(&l) != nil {
				*part(&l)--
				*part(&h)++
				lower, higher = append(lower, l), append(higher, h)
			}
		}
		return lower, higher
	}
)

// machines are all product lines, in all versions of the report.
func machines() map[string]machine {
	turin := snp.TCB{FMC: new(uint8(1)), Bootloader: 1, TEE: 1, SNP: 4, Microcode: 81}
	all := map[string]machine{
		"Milan":                {line: "Milan", family: 0x19, model: 0x01, called: "Milan-B1", version: 5, tcb: levels},
		"Milan, version 3":     {line: "Milan", family: 0x19, model: 0x01, called: "Milan-B1", version: 3, tcb: levels},
		"Milan, version 4":     {line: "Milan", family: 0x19, model: 0x0f, called: "Milan-B0", version: 4, tcb: levels},
		"Genoa":                {line: "Genoa", family: 0x19, model: 0x11, called: "Genoa-B1", version: 5, tcb: levels},
		"Genoa A0h":            {line: "Genoa", family: 0x19, model: 0xa0, called: "Genoa-A2", version: 5, tcb: levels},
		"Bergamo":              {line: "Genoa", family: 0x19, model: 0xaf, called: "Bergamo-A2", version: 3, tcb: levels},
		"Siena":                {line: "Genoa", family: 0x19, model: 0xa0, called: "Siena-A2", version: 5, tcb: levels},
		"Turin":                {line: "Turin", family: 0x1a, model: 0x02, called: "Turin-C1", version: 5, tcb: turin},
		"Turin Dense":          {line: "Turin", family: 0x1a, model: 0x11, called: "Turin-B0", version: 3, tcb: turin},
		"Milan, version 6":     {line: "Milan", family: 0x19, model: 0x01, called: "Milan-B1", version: 6, tcb: levels},
		"Turin, version 6":     {line: "Turin", family: 0x1a, model: 0x02, called: "Turin-C1", version: 6, tcb: turin},
		"Genoa, version 2³²−1": {line: "Genoa", family: 0x19, model: 0xa0, called: "Genoa", version: 1<<32 - 1, tcb: levels},
	}
	for name, m := range all {
		m.lower, m.higher = around(m.tcb)
		all[name] = m
	}
	return all
}

// authorities are AMD's doubles, by line.
var authorities = map[string]func() *snptest.Authority{"Milan": authority("Milan"), "Genoa": authority("Genoa"), "Turin": authority("Turin")}

func authority(line string) func() *snptest.Authority {
	return sync.OnceValue(func() *snptest.Authority {
		a, err := snptest.New(line, now)
		if err != nil {
			panic(err)
		}
		return a
	})
}

// trial is one piece of evidence under one policy.
type trial struct {
	m           machine
	a           *snptest.Authority
	report      snptest.Report
	certificate snptest.Certificate
	policy      snp.Policy
	x           snp.Expectation
	after       func(*snp.Evidence)
}

var data = [64]byte(bytes.Repeat([]byte{7}, 64))

// newTrial is good: by a chip's key, or by the provider's.
func newTrial(m machine, chip bool) *trial {
	a := authorities[m.line]()
	t := &trial{m: m, a: a, report: a.NewReport(m.version, m.family, m.model, m.tcb, data), certificate: snptest.Certificate{TCB: m.tcb, Product: m.called}}
	t.policy = snp.Policy{MinimumTCB: map[string]snp.TCB{m.line: m.tcb}, MinimumReportVersion: 3, CSPIDs: []string{snptest.CSP}}
	t.x = snp.Expectation{ReportData: &data, At: now, Roots: a.Roots()}
	if chip {
		a.ByChip(t.report)
		t.certificate.ChipID = a.ChipID
		t.policy.AllowVCEK, t.policy.ChipIDs, t.policy.CSPIDs = true, []string{hex.EncodeToString(a.ChipID)}, nil
	} else {
		t.certificate.CSP = snptest.CSP
		t.certificate.Product, _, _ = strings.Cut(m.called, "-")
	}
	return t
}

// certificates are those that were made: to make one takes long.
var certificates sync.Map

func certified(a *snptest.Authority, c snptest.Certificate) (*x509.Certificate, error) {
	name := fmt.Sprint(a.Line, c.TCB, c.Product, c.ChipID, c.CSP, c.Extra)
	if made, ok := certificates.Load(name); ok {
		return made.(*x509.Certificate), nil
	}
	made, err := a.Certify(c, now)
	certificates.Store(name, made)
	return made, err
}

func (t *trial) evidence(tb testing.TB) snp.Evidence {
	tb.Helper()
	c, err := certified(t.a, t.certificate)
	if err != nil {
		tb.Fatal(err)
	}
	e, err := t.a.Sign(t.report, c)
	if err != nil {
		tb.Fatal(err)
	}
	if t.after != nil {
		t.after(&e)
	}
	return e
}

func (t *trial) verdict(tb testing.TB) *appraisal.Verdict {
	tb.Helper()
	if err := t.policy.Validate(); err != nil {
		tb.Fatal(err)
	}
	return appraise(t.evidence(tb), t.policy, t.x)
}

// mutations are changes to what the processor, its firmware or its maker says, each of
// which must fail on each product, signed as it may be.
var mutations = map[string]struct {
	change func(*trial)
	codes  []string
	// of is the kind of key that it is of; both if empty.
	of string
}{
	"debug":                    {func(t *trial) { t.report.Put64(snptest.AtPolicy, 0x30000|1<<19) }, []string{"E_SNP_DEBUG"}, ""},
	"debug among unknown bits": {func(t *trial) { t.report.Put64(snptest.AtPolicy, 0x30000|1<<19|1<<40) }, []string{"E_SNP_DEBUG"}, ""},
	"migration agent allowed":  {func(t *trial) { t.report.Put64(snptest.AtPolicy, 0x30000|1<<18) }, []string{"E_SNP_MIGRATION"}, ""},
	"migration agent named":    {func(t *trial) { t.report[snptest.AtMigration+3] = 1 }, []string{"E_SNP_MIGRATION"}, ""},
	"VMPL 1":                   {func(t *trial) { t.report.Put32(snptest.AtVMPL, 1) }, []string{"E_SNP_VMPL"}, ""},
	"asked for by the host":    {func(t *trial) { t.report.Put32(snptest.AtVMPL, 1<<32-1) }, []string{"E_SNP_VMPL"}, ""},
	"another algorithm":        {func(t *trial) { t.report.Put32(snptest.AtAlgorithm, 2) }, []string{"E_SNP_SIGNATURE"}, ""},
	"no algorithm":             {func(t *trial) { t.report.Put32(snptest.AtAlgorithm, 0) }, []string{"E_SNP_SIGNATURE"}, ""},
	"no alias check":           {func(t *trial) { t.report.Put64(snptest.AtPlatform, 0x07) }, []string{"E_SNP_PLATFORM"}, ""},
	"other report data":        {func(t *trial) { t.x.ReportData = new([64]byte) }, []string{"E_SNP_REPORT_DATA"}, ""},
	"older build":              {func(t *trial) { t.report[snptest.AtCurrent] = 0 }, []string{"E_SNP_FIRMWARE"}, ""},
	"may be rolled back":       {func(t *trial) { t.report[snptest.AtCurrent] = 2; t.policy.RequireCommittedFirmware = true }, []string{"E_SNP_FIRMWARE"}, ""},
	"measurement":              {func(t *trial) { t.policy.Measurements = []snp.Reference{{Name: "A", Value: strings.Repeat("01", 48)}} }, []string{"E_SNP_MEASUREMENT"}, ""},
	"host data":                {func(t *trial) { t.policy.HostData = strings.Repeat("03", 32) }, []string{"E_SNP_HOST_DATA"}, ""},
	"late":                     {func(t *trial) { t.x.At = now.AddDate(30, 0, 0) }, []string{"E_SNP_TIME"}, ""},
	"early":                    {func(t *trial) { t.x.At = now.AddDate(-4, 0, 0) }, []string{"E_SNP_TIME"}, ""},
	"AMD's roots":              {func(t *trial) { t.x.Roots = nil }, []string{"E_SNP_CHAIN"}, ""},
	"signature":                {func(t *trial) { t.after = func(e *snp.Evidence) { e.Report[snptest.AtSignature] ^= 1 } }, []string{"E_SNP_SIGNATURE"}, ""},
	"long number in signature": {func(t *trial) { t.after = func(e *snp.Evidence) { e.Report[snptest.AtSignature+71] = 1 } }, []string{"E_SNP_SIGNATURE"}, ""},
	"byte after the signature": {func(t *trial) { t.after = func(e *snp.Evidence) { e.Report[snptest.AtSignature+150] = 1 } }, []string{"E_SNP_FORMAT"}, ""},
	"cut":                      {func(t *trial) { t.after = func(e *snp.Evidence) { e.Report = e.Report[:1183] } }, []string{"E_SNP_FORMAT"}, ""},
	"no floor": {func(t *trial) {
		t.policy.MinimumTCB = map[string]snp.TCB{otherLine(t.m.line): t.otherFloor()}
		t.policy.ChipIDs = nil
	}, []string{"E_SNP_PRODUCT", "E_SNP_TCB"}, ""},
	"certificate of other line": {func(t *trial) { t.certificate.Product = otherLine(t.m.line) }, []string{"E_SNP_VEK"}, ""},
	"certificate of no line":    {func(t *trial) { t.certificate.Product = "Venice" }, []string{"E_SNP_VEK"}, ""},
	"a kind of key not known":   {func(t *trial) { t.report.Put32(snptest.AtFlags, 2<<2) }, nil, "chip"},
	"signed by nobody":          {func(t *trial) { t.report.Put32(snptest.AtFlags, 7<<2) }, nil, "chip"},
	"chips' keys not allowed":   {func(t *trial) { t.policy.AllowVCEK, t.policy.ChipIDs, t.policy.CSPIDs = false, nil, []string{"CN=x"} }, []string{"E_SNP_KEY_KIND"}, "chip"},
	"chip not named":            {func(t *trial) { t.policy.ChipIDs = []string{hex.EncodeToString(make([]byte, len(t.a.ChipID)))} }, []string{"E_SNP_CHIP"}, "chip"},
	"another chip":              {func(t *trial) { t.report[snptest.AtChipID] ^= 1 }, []string{"E_SNP_VEK"}, "chip"},
	"hidden and named chip":     {func(t *trial) { t.report.Put32(snptest.AtFlags, 1<<1) }, []string{"E_SNP_VEK"}, "chip"},
	"certificate of other chip": {func(t *trial) { t.certificate.ChipID = make([]byte, len(t.a.ChipID)) }, []string{"E_SNP_VEK", "E_SNP_CHIP"}, "chip"},
	"foreign cloud":             {func(t *trial) { t.policy.CSPIDs = []string{"CN=another"} }, []string{"E_SNP_CSP_ID"}, "cloud"},
	"issuer revoked":            {func(t *trial) { t.x.Revocations = [][]byte{t.revoked()} }, []string{"E_SNP_CRL"}, ""},
}

func (t *trial) extra(e pkix.Extension) { t.certificate.Extra = append(t.certificate.Extra, e) }

func (t *trial) spareLevel() pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 10}, Value: []byte{2, 1, 1}}
}

// revocations are the lists that were made.
var revocations sync.Map

// revoked is a list with the issuer of the key, of years ago.
func (t *trial) revoked() []byte {
	issuer := t.a.Asvk
	if t.certificate.CSP == "" {
		issuer = t.a.Ask
	}
	if made, ok := revocations.Load(issuer.Subject.CommonName); ok {
		return made.([]byte)
	}
	der, err := t.a.Revoke(now.AddDate(-2, 0, 0), now.AddDate(-1, 0, 0), issuer)
	if err != nil {
		panic(err)
	}
	revocations.Store(issuer.Subject.CommonName, der)
	return der
}

func otherLine(line string) string {
	return map[string]string{"Milan": "Genoa", "Genoa": "Milan", "Turin": "Genoa"}[line]
}

func (t *trial) otherFloor() snp.TCB { return snp.TCB{SNP: 24} }

// TestProducts: reports of each product line and version pass by either kind of key, and
// each mutation of them fails with its own code, as for Milan.
func TestProducts(t *testing.T) {
	for name, m := range machines() {
		for _, chip := range []bool{false, true} {
			of := map[bool]string{true: "chip", false: "cloud"}[chip]
			t.Run(name+" "+of, func(t *testing.T) {
				good := newTrial(m, chip)
				v := good.verdict(t)
				fails(t, v)
				f := v.Facts["sev_snp"].(*snp.Facts)
				want := m.tcb
				if f.Product != m.line || !f.Reported.Equal(want) || !f.Launch.Equal(want) || !f.Committed.Equal(want) || !f.Current.Equal(want) {
					t.Errorf("facts: %+v", f)
				}
				if chip && f.ChipID != hex.EncodeToString(good.a.ChipID) {
					t.Errorf("the chip is %s", f.ChipID)
				}
				if got, newer := len(f.Unknown), m.version > 5; (got > 0) != newer {
					t.Errorf("unknown: %v", f.Unknown)
				}
				for what, change := range mutations {
					if change.codes == nil || change.of != "" && change.of != of {
						continue
					}
					changed := newTrial(m, chip)
					change.change(changed)
					if v := changed.verdict(t); v.Result != appraisal.Fail || !slices.Equal(v.Failed(), change.codes) {
						t.Errorf("%s: %s, failed: %v, want %v", what, v.Result, v.Failed(), change.codes)
					}
				}
				for _, what := range []string{"a kind of key not known", "signed by nobody"} {
					changed := newTrial(m, chip)
					mutations[what].change(changed)
					if v := changed.verdict(t); v.Result != appraisal.Fail {
						t.Errorf("%s: %s, failed: %v", what, v.Result, v.Failed())
					}
				}
				if m.version >= 5 { // the form of a TCB is the product line's, in each version
					testTCBs(t, m, chip)
				}
			})
		}
	}
}

// testTCBs: each part of each TCB that is lower than its floor fails, and higher ones
// pass.
func testTCBs(t *testing.T, m machine, chip bool) {
	t.Helper()
	for _, at := range []int{snptest.AtCommittedTCB, snptest.AtLaunchTCB} {
		for _, lower := range m.lower {
			changed := newTrial(m, chip)
			changed.report.PutTCB(at, lower)
			if v := changed.verdict(t); !slices.Equal(v.Failed(), []string{"E_SNP_TCB"}) {
				t.Errorf("%#x with %s: failed: %v", at, lower, v.Failed())
			}
		}
	}
	for _, lower := range m.lower {
		changed := newTrial(m, chip)
		changed.report.PutTCB(snptest.AtReportedTCB, lower)
		if v := changed.verdict(t); !slices.Equal(v.Failed(), []string{"E_SNP_VEK", "E_SNP_TCB"}) {
			t.Errorf("reports %s: failed: %v", lower, v.Failed())
		}
		if changed.certificate.TCB = lower; !slices.Equal(changed.verdict(t).Failed(), []string{"E_SNP_TCB"}) {
			t.Errorf("certified and reports %s: failed: %v", lower, changed.verdict(t).Failed())
		}
		changed = newTrial(m, chip)
		changed.report.PutTCB(snptest.AtCurrentTCB, lower)
		if v := changed.verdict(t); !slices.Equal(v.Failed(), []string{"E_SNP_FIRMWARE"}) {
			t.Errorf("runs %s: failed: %v", lower, v.Failed())
		}
	}
	for _, higher := range m.higher {
		changed := newTrial(m, chip)
		changed.report.PutTCBs(higher)
		changed.certificate.TCB = higher
		if v := changed.verdict(t); v.Result != appraisal.Pass {
			t.Errorf("with %s: %v", higher, v.Err())
		}
	}
}

// TestOtherProducts: a processor that the program does not know is named.
func TestOtherProducts(t *testing.T) {
	for name, c := range map[string][2]byte{
		"family 1Ah model 50h stepping 1h": {0x1a, 0x50}, "family 19h model 20h stepping 1h": {0x19, 0x20}, "family 19h model B0h stepping 1h": {0x19, 0xb0},
		"family 1Ah model 12h stepping 1h": {0x1a, 0x12}, "family 17h model 31h stepping 1h": {0x17, 0x31}, "family 00h model 00h stepping 1h": {0, 0}, "family 1Bh model 02h stepping 1h": {0x1b, 2},
	} {
		x := newTrial(machines()["Milan"], true)
		x.report[snptest.AtCPU], x.report[snptest.AtCPU+1] = c[0], c[1]
		v := x.verdict(t)
		if !slices.Equal(v.Failed(), []string{"E_SNP_PRODUCT", "E_SNP_CHAIN", "E_SNP_TIME", "E_SNP_VEK", "E_SNP_TCB"}) {
			t.Errorf("%s: failed: %v", name, v.Failed())
		}
		if detail := v.Checks[2].Detail; detail != "this program knows Milan, Genoa, Turin; the report is of "+name {
			t.Errorf("it says %q", detail)
		}
	}
}

// TestFormOfTCB: the form of a TCB is the product line's.
func TestFormOfTCB(t *testing.T) {
	milan := newTrial(machines()["Milan"], true)
	milan.certificate.TCB.FMC = new(uint8(0))
	if v := milan.verdict(t); !slices.Equal(v.Failed(), []string{"E_SNP_VEK"}) {
		t.Errorf("Milan with an FMC: failed: %v", v.Failed())
	}
	turin := newTrial(machines()["Turin"], true)
	turin.certificate.TCB.FMC = nil
	if v := turin.verdict(t); !slices.Equal(v.Failed(), []string{"E_SNP_VEK"}) {
		t.Errorf("Turin without: failed: %v", v.Failed())
	}
	turin = newTrial(machines()["Turin"], true)
	turin.certificate.ChipID = append(bytes.Clone(turin.a.ChipID), make([]byte, 56)...)
	if v := turin.verdict(t); !slices.Equal(v.Failed(), []string{"E_SNP_VEK", "E_SNP_CHIP"}) {
		t.Errorf("Turin with a long ID: failed: %v", v.Failed())
	}
}

// TestUnknown: what is signed and not known is a fact, and a failure if the policy says
// so; on each product line.
func TestUnknown(t *testing.T) {
	for name, m := range machines() {
		if m.version != 5 {
			continue
		}
		for what, tt := range map[string]struct {
			change func(*trial)
			fact   string
		}{
			"a version":               {func(x *trial) { x.report.Put32(snptest.AtVersion, 6) }, "VERSION, byte 0x0: 0x6"},
			"bit of the platform":     {func(x *trial) { x.report.Put64(snptest.AtPlatform, 0x27|1<<8) }, "PLATFORM_INFO, byte 0x40: 0x100"},
			"bits of the platform":    {func(x *trial) { x.report.Put64(snptest.AtPlatform, 0x27|1<<63|1<<12) }, "PLATFORM_INFO, byte 0x40: 0x8000000000001000"},
			"bit of the policy":       {func(x *trial) { x.report.Put64(snptest.AtPolicy, 0x30000|1<<26) }, "GUEST_POLICY, byte 0x8: 0x4000000"},
			"bit that is always one":  {func(x *trial) { x.report.Put64(snptest.AtPolicy, 0x10000) }, "GUEST_POLICY, of which bit 17 is not set, byte 0x8: 0x10000"},
			"bit of the flags":        {func(x *trial) { x.report[snptest.AtFlags] |= 1 << 5 }, "flags, byte 0x48: 0x20"},
			"reserved after flags":    {func(x *trial) { x.report[snptest.AtFlags+5] = 9 }, "reserved, byte 0x4d: 09"},
			"reserved after the CPU":  {func(x *trial) { x.report[snptest.AtCPU+4] = 9; x.report[snptest.AtCPU+6] = 8 }, "reserved, byte 0x18c: 090008"},
			"reserved after builds":   {func(x *trial) { x.report[snptest.AtCurrent+3] = 9 }, "reserved, byte 0x1eb: 09"},
			"reserved after builds 2": {func(x *trial) { x.report[snptest.AtCommitted+3] = 9 }, "reserved, byte 0x1ef: 09"},
			"reserved at the end":     {func(x *trial) { x.report[snptest.AtSignature-1] = 9 }, "reserved, byte 0x29f: 09"},
			"reserved in a TCB":       {func(x *trial) { x.report[snptest.AtLaunchTCB+4] = 9 }, "LAUNCH_TCB, byte 0x1f0: 0000000009000000"},
			"extension":               {func(x *trial) { x.extra(x.spareLevel()) }, "extension 1.3.6.1.4.1.3704.1.3.10 of the certificate: 020101"},
		} {
			x := newTrial(m, false)
			tt.change(x)
			v := x.verdict(t)
			fails(t, v)
			f := v.Facts["sev_snp"].(*snp.Facts)
			if len(f.Unknown) != 1 || f.Unknown[0].Place+": "+f.Unknown[0].Value != tt.fact {
				t.Errorf("%s, %s: %+v, want %s", name, what, f.Unknown, tt.fact)
			}
			x.policy.RefuseUnknown = true
			v = x.verdict(t)
			fails(t, v, "E_SNP_UNKNOWN")
			if last := v.Checks[len(v.Checks)-1]; !strings.Contains(last.Detail, tt.fact) {
				t.Errorf("%s: it says %q", what, last.Detail)
			}
			x.after = func(e *snp.Evidence) { e.Report[snptest.AtHostData] ^= 1 }
			if v := x.verdict(t); !slices.Contains(v.Failed(), "E_SNP_SIGNATURE") {
				t.Errorf("%s: what is unknown is not signed: %v", what, v.Failed())
			}
		}
		x := newTrial(m, false)
		x.policy.RefuseUnknown = true
		fails(t, x.verdict(t))
		// What is known only since a version is not known in those before.
		x.report.Put64(snptest.AtMitigations, 15)
		fails(t, x.verdict(t))
		x.report.Put32(snptest.AtVersion, 4)
		fails(t, x.verdict(t), "E_SNP_UNKNOWN")
	}
}

// TestEveryByteIsSigned: no byte of a report of any product can be another, whether or
// not it is known.
func TestEveryByteIsSigned(t *testing.T) {
	for _, name := range []string{"Turin", "Genoa A0h", "Milan, version 6"} {
		x := newTrial(machines()[name], true)
		e := x.evidence(t)
		for i := 0; i < len(e.Report); i += every {
			changed := e
			changed.Report = bytes.Clone(e.Report)
			changed.Report[i] ^= 1 << (i % 8)
			if v := appraise(changed, x.policy, x.x); v.Result != appraisal.Fail {
				t.Errorf("%s: it passes with another byte %#x", name, i)
			}
		}
		for i := 0; i < len(e.VEK); i += every {
			changed := e
			changed.VEK = bytes.Clone(e.VEK)
			changed.VEK[i] ^= 1 << (i % 8)
			if v := appraise(changed, x.policy, x.x); v.Result != appraisal.Fail {
				t.Errorf("%s: it passes with another byte %d of the certificate", name, i)
			}
		}
	}
}

// TestKindOfKey: a kind that the program does not know is refused by a clear word.
func TestKindOfKey(t *testing.T) {
	for kind := uint32(2); kind < 8; kind++ {
		x := newTrial(machines()["Milan"], true)
		x.report.Put32(snptest.AtFlags, kind<<2)
		v := x.verdict(t)
		want := fmt.Sprintf("a kind of key that this program does not know (%d)", kind)
		if kind == 7 {
			want = "nobody signed it"
		}
		if !slices.Contains(v.Failed(), "E_SNP_KEY_KIND") || !strings.Contains(v.Checks[3].Detail, want) {
			t.Errorf("%d: failed %v; it says %q", kind, v.Failed(), v.Checks[3].Detail)
		}
	}
}

// TestRevocations: one of AMD's lists that revokes counts however old it is and whoever
// brings it, and none but the verifier's own shows that nothing is revoked.
func TestRevocations(t *testing.T) {
	a, other := authorities["Milan"](), authorities["Genoa"]()
	foreign := otherKeysList(t)
	list := func(days int, until int, certs ...*x509.Certificate) []byte {
		der, err := a.Revoke(now.AddDate(0, 0, -days), now.AddDate(0, 0, until), certs...)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	genoas, err := other.Revoke(now.AddDate(0, 0, -1), now.AddDate(0, 0, 1), other.Asvk)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		own     [][]byte
		machine []byte
		// open and required are the failures without and with require_crl.
		open, required string
		facts          string
	}{
		"none":                            {required: "E_SNP_CRL"},
		"own":                             {own: [][]byte{list(5, 5)}, facts: "verifier 5 true"},
		"own, old":                        {own: [][]byte{list(50, -5)}, required: "E_SNP_CRL", facts: "verifier 50 false"},
		"own, of the future":              {own: [][]byte{list(-5, 50)}, required: "E_SNP_CRL", facts: "verifier -5 false"},
		"own, old and new":                {own: [][]byte{list(50, -5), list(5, 5)}, facts: "verifier 50 false,verifier 5 true"},
		"own, revokes":                    {own: [][]byte{list(5, 5, a.Asvk)}, open: "E_SNP_CRL", required: "E_SNP_CRL"},
		"own, revokes, old":               {own: [][]byte{list(500, -400, a.Asvk)}, open: "E_SNP_CRL", required: "E_SNP_CRL"},
		"old revokes, new does not":       {own: [][]byte{list(500, -400, a.Asvk), list(5, 5)}, open: "E_SNP_CRL", required: "E_SNP_CRL"},
		"own, revokes the root":           {own: [][]byte{list(5, 5, a.Ark)}, open: "E_SNP_CRL", required: "E_SNP_CRL"},
		"own, revokes the other":          {own: [][]byte{list(5, 5, a.Ask)}},
		"own, of another root":            {own: [][]byte{genoas}, open: "E_SNP_CRL", required: "E_SNP_CRL"}, // these roots are Milan's alone
		"machine's":                       {machine: list(5, 5), required: "E_SNP_CRL", facts: "machine 5 true"},
		"machine's, old":                  {machine: list(50, -5), required: "E_SNP_CRL", facts: "machine 50 false"},
		"machine's, revokes":              {machine: list(500, -400, a.Asvk), open: "E_SNP_CRL", required: "E_SNP_CRL"},
		"machine's revokes, own does not": {own: [][]byte{list(5, 5)}, machine: list(500, -400, a.Asvk), open: "E_SNP_CRL", required: "E_SNP_CRL"},
		"both":                            {own: [][]byte{list(5, 5)}, machine: list(6, 5), facts: "verifier 5 true,machine 6 true"},
		"own, by a stranger":              {own: [][]byte{foreign}, open: "E_SNP_CRL", required: "E_SNP_CRL"},
		"own, damaged":                    {own: [][]byte{[]byte("x")}, open: "E_SNP_CRL", required: "E_SNP_CRL"},
		"own, empty":                      {own: [][]byte{nil}, open: "E_SNP_CRL", required: "E_SNP_CRL"},
		"machine's, by a stranger":        {machine: foreign, open: "E_SNP_CRL", required: "E_SNP_CRL"},
	} {
		for _, required := range []bool{false, true} {
			x := newTrial(machines()["Milan"], false)
			x.policy.RequireCRL, x.x.Revocations = required, tt.own
			x.after = func(e *snp.Evidence) { e.CRL = tt.machine }
			want := tt.open
			if required {
				want = tt.required
			}
			v := x.verdict(t)
			var codes []string
			if want != "" {
				codes = []string{want}
			}
			if !slices.Equal(v.Failed(), codes) {
				t.Errorf("%s, required: %v: failed: %v, want %v (%v)", name, required, v.Failed(), codes, v.Err())
			}
			var facts []string
			for _, l := range v.Facts["sev_snp"].(*snp.Facts).Lists {
				facts = append(facts, fmt.Sprint(l.From, " ", l.Age, " ", l.InForce))
			}
			if got := strings.Join(facts, ","); tt.facts != "" && got != tt.facts {
				t.Errorf("%s: the lists are %s, want %s", name, got, tt.facts)
			}
		}
	}
}

// otherKeysList is a list by a root that nobody knows.
func otherKeysList(t *testing.T) []byte {
	t.Helper()
	s := platform()
	stranger := *s.Ark
	stranger.RawSubject, stranger.Subject.CommonName, stranger.SubjectKeyId = nil, "ARK-Another", []byte("other")
	copied := *s
	copied.Ark = &stranger
	keys := *s.Keys
	keys.Ark = otherKeys(t).Ark
	copied.Keys = &keys
	return newCRL(t, &copied, now)
}

// TestReadRevocations: a verifier is given lists of AMD's alone.
func TestReadRevocations(t *testing.T) {
	a := authorities["Milan"]()
	der, err := a.Revoke(now, now.AddDate(0, 1, 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := snp.ReadRevocations(der, a.Roots()); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string][]byte{"by another root": der, "empty": nil, "no list": []byte("no"), "huge": make([]byte, 2<<20)} {
		if _, err := snp.ReadRevocations(bad, nil); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}

// TestFloors: a floor has each part that its product line has, written.
func TestFloors(t *testing.T) {
	kind := snp.Kind{}
	read := func(floors, more string) error {
		p, err := kind.ParsePolicy([]byte(`{"allow_vcek":true,` + more + `"csp_ids":[],"minimum_tcb":{` + floors + `},"minimum_report_version":3,"require_committed_firmware":false,"require_crl":false}`))
		if err == nil {
			err = p.Validate()
		}
		return err
	}
	const all = `"bootloader":1,"tee":0,"snp":29,"microcode":2`
	for name, good := range map[string]string{"Milan": `"Milan":{` + all + `}`, "Genoa": `"Genoa":{` + all + `}`, "Turin": `"Turin":{"fmc":0,` + all + `}`} {
		if err := read(good, ""); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for says, bad := range map[string]string{
		`Milan has no FMC`: `"Milan":{"fmc":0,` + all + `}`, `Turin has an FMC`: `"Turin":{` + all + `}`, `spl`: `"Milan":{"spl":1,` + all + `}`,
		`256`: `"Milan":{"bootloader":256,"tee":0,"snp":29,"microcode":2}`, `-1`: `"Milan":{"bootloader":-1,"tee":0,"snp":29,"microcode":2}`,
		`"Venice" is not supported; Milan, Genoa, Turin are`: `"Venice":{` + all + `}`, `name a floor`: ``,
	} {
		if err := read(bad, ""); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %s", bad, err, says)
		}
	}
	id := strings.Repeat("ab", 64)
	for ids, says := range map[string]string{
		`"` + id + `"`: "", `"` + id + `","` + id + `"`: "twice", `"abab"`: "128 for Milan", `"` + strings.ToUpper(id) + `"`: "lower-case", `""`: "not the ID", `"` + id[:16] + `"`: "128 for Milan",
	} {
		if err := read(`"Milan":{`+all+`}`, `"chip_ids":[`+ids+`],`); (err == nil) != (says == "") || says != "" && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", ids, err)
		}
	}
	if err := read(`"Turin":{"fmc":0,`+all+`}`, `"chip_ids":["`+id[:16]+`"],`); err != nil {
		t.Error(err)
	}
	p := snp.DefaultPolicy()
	p.ChipIDs = []string{id}
	if err := p.Validate(); err == nil || !strings.Contains(err.Error(), "allow_vcek") {
		t.Errorf("chips without keys of their own: %v", err)
	}
}

// TestGaps: what a policy lets in that nobody meant is said.
func TestGaps(t *testing.T) {
	if gaps := snp.DefaultPolicy().Gaps(); gaps != nil {
		t.Errorf("the default policy: %q", gaps)
	}
	for says, change := range map[string]func(*snp.Policy){
		"any AMD chip in the world": func(p *snp.Policy) { p.AllowVCEK = true },
		"AMD asks for 24":           func(p *snp.Policy) { p.MinimumTCB["Milan"] = snp.TCB{SNP: 23, Microcode: 255} },
		"AMD asks for 23":           func(p *snp.Policy) { p.MinimumTCB["Genoa"] = snp.TCB{SNP: 22} },
		"AMD asks for 4":            func(p *snp.Policy) { p.MinimumTCB["Turin"] = snp.TCB{FMC: new(uint8(1)), SNP: 3} },
	} {
		p := snp.DefaultPolicy()
		change(&p)
		if gaps := p.Gaps(); len(gaps) != 1 || !strings.Contains(gaps[0], says) {
			t.Errorf("%s: %q", says, gaps)
		}
	}
}
