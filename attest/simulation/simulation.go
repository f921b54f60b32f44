// Package simulation is a machine with an SEV-SNP processor, a NitroTPM and a
// boot that it measured, none of which exist: the TPM is swtpm, the other two
// are doubles that sign with keys everybody knows. Its evidence passes for who
// trusts its [Platform.Roots], which no production program does.
package simulation

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"fmt"
	"math/big"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	sevtest "github.com/google/go-sev-guest/testing"
	"github.com/google/go-sev-guest/verify/trust"
	"github.com/google/go-tpm/tpm2/transport"

	"holdfast/attest"
	"holdfast/attest/device"
	"holdfast/attest/ec2"
	"holdfast/attest/ec2/ec2test"
	"holdfast/attest/nitro"
	"holdfast/attest/nitro/nitrotest"
	"holdfast/attest/snp"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/swtpm"
)

// CSPID is the cloud provider that the simulated VLEK names.
const CSPID = "CN=cc-sim-1.holdfast.invalid"

// Platform is the machine, from its power-on to Close.
type Platform struct {
	// TPM is the machine's; EventLog is what its firmware measured.
	TPM      *tpm.Device
	EventLog []byte
	// ModuleID is what the NitroTPM's documents name; that of all simulated machines if
	// empty.
	ModuleID string
	// Instance is what EC2 says of the machine; its ID is that in ModuleID if it is empty,
	// and the rest that of all simulated machines.
	Instance ec2.Instance

	process *swtpm.Process
	signer  *sevtest.AmdSigner
	aws     *nitrotest.Authority
	tcb     uint64
	now     func() time.Time
}

// aws stands for AWS, of which there is one.
var aws = sync.OnceValue(nitrotest.New)

// ofEC2 signs identities of instances in its name.
var ofEC2 = sync.OnceValue(ec2test.New)

// What EC2 says of machines of which nothing else was asked for.
const (
	Account = "000000000000"
	Image   = "ami-00000000000000000"
)

// identity gives the machine's signed identity.
func (p *Platform) identity(context.Context) []byte {
	i := p.Instance
	for _, f := range []struct {
		into *string
		is   string
	}{{&i.Type, "m6a.large"}, {&i.Image, Image}, {&i.Region, nitrotest.Region}, {&i.Zone, nitrotest.Region + "a"}, {&i.Account, Account}} {
		*f.into = cmp.Or(*f.into, f.is)
	}
	if i.ID == "" {
		i.ID, _, _ = strings.Cut(cmp.Or(p.ModuleID, nitrotest.ModuleID), "-tpm")
	}
	return ofEC2().Sign(i)
}

// OfAccount is the section of a policy that asks for the identity of simulated machines.
func (p *Platform) OfAccount() *ec2.Policy {
	return &ec2.Policy{Accounts: []string{Account}, Certificates: [][]byte{ofEC2().Certificate}}
}

// Boot powers the machine on. Its TPM's state is in the folder, which is made;
// to boot from the same folder again is a reboot. The components are what it
// boots, each measured into a PCR.
func Boot(dir string, now func() time.Time, components ...swtpm.Component) (_ *Platform, err error) {
	if now == nil {
		now = time.Now
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("simulated machine: %w", err)
	}
	p := &Platform{now: now, aws: aws()}
	defer func() {
		if err != nil {
			_ = p.Close()
		}
	}()
	parts := kds.TCBParts{BlSpl: 4, SnpSpl: 29, UcodeSpl: 222}
	version, err := kds.ComposeTCBParts(parts)
	if err != nil {
		return nil, fmt.Errorf("simulated machine: %w", err)
	}
	p.tcb = uint64(version)
	year := now().AddDate(-1, 0, 0)
	builder := &sevtest.AmdSignerBuilder{Keys: sevtest.DefaultAmdKeys(), ProductName: "Milan-B1", CSPID: CSPID,
		ArkCreationTime: year, AskCreationTime: year, AsvkCreationTime: year, VcekCreationTime: year, VlekCreationTime: year}
	builder.VlekCustom.Extensions = sevtest.CustomExtensions(parts, nil, CSPID, "Milan-B1")
	if p.signer, err = builder.TestOnlyCertChain(); err != nil {
		return nil, fmt.Errorf("simulated machine: %w", err)
	}
	if p.process, err = swtpm.Start(dir); err != nil {
		return nil, fmt.Errorf("simulated machine: %w", err)
	}
	if p.TPM, err = device.OpenTPM(p.process.Socket); err != nil {
		return nil, fmt.Errorf("simulated machine: %w", err)
	}
	if p.EventLog, err = swtpm.Boot(p.TPM, components...); err != nil {
		return nil, fmt.Errorf("simulated machine: %w", err)
	}
	return p, nil
}

// Close powers the machine off.
func (p *Platform) Close() error {
	var err error
	if p.TPM != nil {
		err = p.TPM.Close()
	}
	if p.process != nil {
		p.process.Stop()
	}
	return err
}

// Roots are what a verifier must be given to take the machine's evidence.
func (p *Platform) Roots() *attest.Roots {
	kinds, err := attest.NewKinds(snp.Kind{
		Roots: snp.SimulatedRoots("Milan", &trust.ProductCerts{Ark: p.signer.Ark, Ask: p.signer.Ask, Asvk: p.signer.Asvk}),
	})
	if err != nil {
		panic(err) // one kind is not there twice
	}
	return &attest.Roots{Kinds: kinds, Nitro: p.aws.Root}
}

// Policy is the default policy, but for the cloud provider.
func (p *Platform) Policy() attest.Policy {
	policy := attest.DefaultPolicy()
	snp.PolicyOf(policy.Reports).CSPIDs = []string{CSPID}
	return policy
}

// Collector collects this machine's evidence.
func (p *Platform) Collector() *attest.Collector {
	return &attest.Collector{Report: snp.Source{Provider: p}, TPM: p.TPM, EventLog: p.EventLog, Nitro: p.document, Instance: p.identity, Now: p.now}
}

// Revoke gives a list of revocations, of one time and in force until another, by the root
// of the machine's processor. It names the issuer of the key that signs its reports, if
// that is asked for.
func (p *Platform) Revoke(at, until time.Time, issuer bool) ([]byte, error) {
	list := &x509.RevocationList{Number: big.NewInt(at.Unix()), ThisUpdate: at, NextUpdate: until, SignatureAlgorithm: x509.SHA384WithRSAPSS}
	if issuer {
		list.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: p.signer.Asvk.SerialNumber, RevocationTime: at}}
	}
	root := *p.signer.Ark
	if root.SubjectKeyId == nil { // which the double leaves out
		root.SubjectKeyId = []byte{1}
	}
	return x509.CreateRevocationList(rand.Reader, list, &root, p.signer.Keys.Ark)
}

// GetRawQuoteAtLevel implements [snp.Provider]: a report as EC2's are, and the
// certificates that go with it.
func (p *Platform) GetRawQuoteAtLevel(reportData [64]byte, vmpl uint) ([]byte, error) {
	const milan = 0x00a00f11 // CPUID
	raw := sevtest.CreateRawReport(&sevtest.TestReportOptions{ReportData: reportData[:], FMS: milan, Version: 5,
		SignerInfo: abi.SignerInfo{SigningKey: abi.VlekReportSigner}})
	r, err := abi.ReportToProto(raw[:])
	if err != nil {
		return nil, err
	}
	r.Policy = abi.SnpPolicyToBytes(abi.SnpPolicy{SMT: true})
	r.Vmpl = uint32(vmpl)
	r.CurrentTcb, r.ReportedTcb, r.CommittedTcb, r.LaunchTcb = p.tcb, p.tcb, p.tcb, p.tcb
	r.CurrentMajor, r.CurrentMinor, r.CurrentBuild = 1, 58, 1
	r.CommittedMajor, r.CommittedMinor, r.CommittedBuild = 1, 58, 1
	r.PlatformInfo = 0x27 // SMT, TSME, ECC, alias check
	r.ReportIdMa = bytes.Repeat([]byte{0xff}, abi.ReportIDMASize)
	r.Signature = make([]byte, abi.SignatureSize)
	report, err := abi.ReportToAbiBytes(r)
	if err != nil {
		return nil, err
	}
	digest := sha512.Sum384(abi.SignedComponent(report))
	a, b, err := ecdsa.Sign(rand.Reader, p.signer.Keys.Vlek, digest[:])
	if err != nil {
		return nil, err
	}
	if err := abi.SetSignature(a, b, report); err != nil {
		return nil, err
	}
	table, err := p.signer.CertTableBytes()
	return append(report, table...), err
}

// document asks the TPM as on EC2, by AWS's command, which swtpm lacks.
func (p *Platform) document(userData, nonce []byte) (document []byte, err error) {
	pcrs, err := p.TPM.ReadPCRs("sha384", []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})
	if err != nil {
		return nil, err
	}
	err = p.TPM.Do(func(t transport.TPM) (err error) {
		withAWS := &nitrotest.TPM{Authority: p.aws, Inner: t, Document: func() (nitro.Document, error) {
			return nitro.Document{ModuleID: p.ModuleID, Time: p.now(), PCRs: pcrs}, nil
		}}
		document, err = nitro.Request(withAWS, userData, nonce, nil)
		return err
	})
	return document, err
}
