package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"holdfast/attest"
	"holdfast/attest/appraisal"
	"holdfast/attest/snp"
	"holdfast/attest/tpm"
	"holdfast/cmd/internal/cli"
)

// verifyFlags are those of the verify command.
type verifyFlags struct {
	policy, policyKey, nonce, at string
	certificate, tcb             string
	ca, out, page                string
	crls                         []string
	report, vek, document        string
	quote, signature, ak         string
	pcrs, eventLog               string
	launch, owner                string
}

func verifyCommand(a *admin) *cobra.Command {
	var f verifyFlags
	c := &cobra.Command{
		Use:   "verify [EVIDENCE] [--policy FILE --policy-key FILE]",
		Short: "Check evidence of what a machine runs: a file, or that of a running appliance",
		Long: "Check evidence of what a machine runs: an evidence file, the documents that hardware signed\n" +
			"one by one, or the evidence of a running appliance, if EVIDENCE is its address, such as\n" +
			"https://holdfast.example.com:9443: it is asked with a fresh nonce, and the evidence must name\n" +
			"the TLS key of that connection. Files are checked offline, without TPM and configuration.\n" +
			"It exits 0 if all that matters was checked and passed, 1 if a check failed, 2 if the\n" +
			"input is unusable or no evidence came, and 3 if nothing failed and the verdict is\n" +
			"incomplete, as something that matters was not given: a nonce, the certificate, a signed\n" +
			"policy with references, or what ties single documents to each other.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			if err := saysNothing(cmd.Flags()); err != nil {
				return cli.Unusable(err)
			}
			done, err := f.appraise(cmd, a, args)
			if err != nil {
				return cli.Unusable(err)
			}
			return a.finish(cmd, &f, done)
		}),
	}
	fs := c.Flags()
	fs.StringVar(&f.policy, "policy", "", "appraisal policy, signed or your own; the default policy without it")
	fs.StringVar(&f.policyKey, "policy-key", "", "public key (PEM, Ed25519) that the policy must be signed by")
	fs.StringVar(&f.nonce, "nonce", "", "the nonce that you asked with, in hexadecimal")
	fs.StringVar(&f.certificate, "tls-cert", "", "the certificate (PEM) that the machine showed you, whose key the evidence must name")
	fs.StringVar(&f.at, "at", "", "the time to appraise at (RFC 3339); without it now if there is a --nonce, or else the evidence's own")
	fs.StringArrayVar(&f.crls, "crl", nil, "AMD's list of revocations (DER), your own; may be repeated")
	fs.StringVar(&f.tcb, "tcb", "", "TCB recovery file, signed by the --policy-key, which raises the policy's floors")
	fs.StringVar(&f.report, "snp-report", "", "SEV-SNP attestation report, 1184 bytes")
	fs.StringVar(&f.vek, "vek", "", "certificate of the key that signed it, VLEK or VCEK (DER)")
	fs.StringVar(&f.document, "nitro-document", "", "NitroTPM attestation document (COSE_Sign1)")
	fs.StringVar(&f.quote, "tpm-quote", "", "quote (TPMS_ATTEST)")
	fs.StringVar(&f.signature, "tpm-signature", "", "its signature (TPMT_SIGNATURE)")
	fs.StringVar(&f.ak, "ak", "", "public area of the attestation key (TPMT_PUBLIC)")
	fs.StringVar(&f.pcrs, "pcrs", "", `the quoted PCR values (JSON: {"sha384": {"4": "hex"}})`)
	fs.StringVar(&f.eventLog, "event-log", "", "the firmware's event log")
	fs.StringVar(&f.launch, "launch", "", "the launch file that the machine must run by, or its user data")
	fs.StringVar(&f.owner, "owner", "", "public key (PEM, Ed25519) that the machine's launch file must be signed by")
	fs.StringVar(&f.ca, "ca", "", "certificates (PEM) under which that of the address may be signed; the system's without it. The verdict says whether it is")
	fs.StringVar(&f.out, "out", "", "file to keep the evidence of the address in, which must not exist; the certificate goes beside it (.pem)")
	fs.StringVar(&f.page, "report", "", "file to write a report to (HTML, one page to file), which must not exist")
	c.MarkFlagsRequiredTogether("snp-report", "vek")
	c.MarkFlagsRequiredTogether("tpm-quote", "tpm-signature", "ak", "pcrs", "event-log")
	return c
}

// saysNothing names a flag that was given without a value, as by a variable of the shell
// that is not set. To take it for one that was not given would check less than was asked.
func saysNothing(flags *pflag.FlagSet) (err error) {
	flags.Visit(func(f *pflag.Flag) {
		if v := f.Value.String(); err == nil && (v == "" || v == "[]") {
			err = fmt.Errorf("--%s has no value: give one, or leave the flag out", f.Name)
		}
	})
	return err
}

// appraised is what was appraised, and what came of it.
type appraised struct {
	verdict *appraisal.Verdict
	// online is the answer of an appliance; nil for files.
	online *online
	// rows say for a report what was given.
	rows []row
}

func (f *verifyFlags) appraise(cmd *cobra.Command, a *admin, args []string) (*appraised, error) {
	for _, path := range f.written() {
		if err := checkNew(path); err != nil {
			return nil, err
		}
	}
	policy, err := openPolicy(f.policy, f.policyKey)
	if err != nil {
		return nil, err
	}
	x := attest.Expectation{Signed: policy.signed, Roots: a.roots}
	if x.Endorsements, err = (endorsementFiles{f.crls, f.tcb, f.policyKey}).read("--", a.roots); err != nil {
		return nil, err
	}
	if err := f.expectLaunch(&x); err != nil {
		return nil, err
	}
	if len(args) > 0 && strings.Contains(args[0], "://") {
		return f.ask(cmd, a, args[0], policy.policy, x)
	}
	for _, name := range []string{"ca", "out"} {
		if cmd.Flags().Changed(name) {
			return nil, fmt.Errorf("--%s is for the address of an appliance, such as https://holdfast.example.com:9443", name)
		}
	}
	if f.at != "" {
		if x.At, err = time.Parse(time.RFC3339, f.at); err != nil {
			return nil, fmt.Errorf("--at %q is not a time such as 2026-11-23T12:00:00Z", f.at)
		}
	}
	if f.report != "" || f.document != "" || f.quote != "" {
		if len(args) > 0 {
			return nil, errors.New("give an evidence file, or single documents, not both")
		}
		if f.report == "" && (len(f.crls) > 0 || f.tcb != "") {
			return nil, errors.New("--crl and --tcb are about a processor's report, and there is no --snp-report")
		}
		if f.nonce != "" || f.certificate != "" || f.launch != "" || f.owner != "" {
			return nil, errors.New("--nonce, --tls-cert, --launch and --owner are for evidence files: single documents do not say where theirs are")
		}
		parts, err := f.parts()
		if err != nil {
			return nil, err
		}
		return &appraised{verdict: attest.VerifyParts(*parts, policy.policy, x, time.Now()), rows: f.partRows()}, nil
	}
	if len(args) == 0 {
		return nil, errors.New("give an evidence file, the address of an appliance, or documents such as --snp-report; see holdfast verify --help")
	}
	text, err := cli.ReadInput(args[0])
	if err != nil {
		return nil, err
	}
	evidence, nonce, err := parseEvidence(text, f.nonce)
	if err != nil {
		return nil, err
	}
	x.Nonce = nonce
	if f.certificate != "" {
		if x.TLSKey, err = readCertificateKey(f.certificate); err != nil {
			return nil, err
		}
	}
	return &appraised{verdict: attest.Verify(evidence, policy.policy, x), rows: sourceRows("the file "+args[0], text, x)}, nil
}

// endorsementFiles are the files with what a verifier has of its own: lists of revocations,
// and a TCB recovery file that the key of the policy's signer has signed.
type endorsementFiles struct {
	crls     []string
	tcb, key string
}

// read reads the files. What cannot be used is an error that names the option, of which the
// caller gives how it begins, empty for one in a configuration; nothing is left out in silence. Nil roots trust the makers of
// processors.
func (f endorsementFiles) read(option string, roots *attest.Roots) (own attest.Endorsements, err error) {
	for _, path := range f.crls {
		list, err := cli.ReadInput(path)
		if err == nil {
			_, err = attest.ReadRevocations(list, roots)
		}
		if err != nil {
			return own, fmt.Errorf("%scrl %s: %w", option, path, err)
		}
		own.Revocations = append(own.Revocations, list)
	}
	if f.tcb == "" {
		return own, nil
	}
	if f.key == "" {
		key := "policy_key"
		if option != "" {
			key = "--policy-key"
		}
		return own, fmt.Errorf("%stcb needs %s: the policy's signer must have signed the file", option, key)
	}
	own.Recovery, err = readRecovery(f.tcb, f.key)
	return own, err
}

// readRecovery reads a TCB recovery file that the key has signed.
func readRecovery(path, keyFile string) (*attest.SignedRecovery, error) {
	text, err := cli.ReadInput(path)
	if err != nil {
		return nil, err
	}
	key, err := cli.ReadPublicKey[ed25519.PublicKey](keyFile, cli.PolicyAlgorithm)
	if err != nil {
		return nil, err
	}
	r, err := attest.OpenRecovery(text, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// expectLaunch asks for the launch file and the owner that were given.
func (f *verifyFlags) expectLaunch(x *attest.Expectation) error {
	if f.launch != "" {
		text, _, err := readLaunch(f.launch, "")
		if err != nil {
			return fmt.Errorf("--launch: %w", err)
		}
		if len(text) == 0 {
			return fmt.Errorf("--launch: %s is empty", f.launch)
		}
		digest := sha256.Sum256(text)
		x.LaunchDigest = digest[:]
	}
	if f.owner != "" {
		key, err := cli.ReadPublicKey[ed25519.PublicKey](f.owner, cli.PolicyAlgorithm)
		if err != nil {
			return fmt.Errorf("--owner: %w", err)
		}
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			return err
		}
		digest := sha256.Sum256(der)
		x.OwnerDigest = digest[:]
	}
	return nil
}

// readEvidence reads an evidence file, and what the nonce, if one is given, has
// to be.
func readEvidence(path, nonce string) (*attest.Evidence, []byte, error) {
	text, err := cli.ReadInput(path)
	if err != nil {
		return nil, nil, err
	}
	return parseEvidence(text, nonce)
}

func parseEvidence(text []byte, nonce string) (*attest.Evidence, []byte, error) {
	evidence, err := attest.Parse(text)
	if err != nil || nonce == "" {
		return evidence, nil, err
	}
	given, err := hex.DecodeString(nonce)
	if err != nil {
		return nil, nil, fmt.Errorf("--nonce %.80q is not in hexadecimal", nonce)
	}
	return evidence, given, nil
}

// readCertificateKey gives the key (DER SubjectPublicKeyInfo) of a certificate.
func readCertificateKey(path string) ([]byte, error) {
	text, err := cli.ReadInput(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s is not a certificate in PEM", path)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c.RawSubjectPublicKeyInfo, nil
}

func (f *verifyFlags) parts() (*attest.Parts, error) {
	var p attest.Parts
	var errs []error
	read := func(path string) []byte {
		if path == "" {
			return nil
		}
		b, err := cli.ReadInput(path)
		errs = append(errs, err)
		return b
	}
	if f.report != "" {
		p.Report = snp.NewReport(snp.Evidence{Report: read(f.report), VEK: read(f.vek)})
	}
	p.Nitro = read(f.document)
	if f.quote != "" {
		p.TPM = &tpm.Evidence{AK: read(f.ak), Quote: read(f.quote), Signature: read(f.signature), EventLog: read(f.eventLog)}
		if values := read(f.pcrs); values != nil {
			var err error
			if p.TPM.PCRs, err = tpm.ParsePCRs(values); err != nil {
				errs = append(errs, fmt.Errorf("--pcrs: %w", err))
			}
		}
	}
	return &p, errors.Join(errs...)
}

// readPolicy reads a policy to appraise evidence by: signed if there is a key, or
// one that the caller has written; the default if there is none. Of a signed one the
// policy is in it.
func readPolicy(path, keyFile string) (*attest.Policy, *attest.SignedPolicy, error) {
	switch {
	case path == "" && keyFile != "":
		return nil, nil, errors.New("--policy-key is for a --policy")
	case path == "":
		p := attest.DefaultPolicy()
		return &p, nil, nil
	}
	if keyFile == "" {
		text, err := cli.ReadInput(path)
		if err != nil {
			return nil, nil, err
		}
		p, err := attest.ParsePolicy(text)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w; give --policy-key if it is a signed one", path, err)
		}
		if err := p.CheckProof(); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", path, err)
		}
		return p, nil, nil
	}
	signed, err := readSignedPolicy(path, keyFile, attest.OpenPolicy)
	if err != nil {
		return nil, nil, err
	}
	return &signed.Policy, signed, nil
}

// readSignedPolicy reads a policy that open takes with the key.
func readSignedPolicy(path, keyFile string, open func([]byte, ed25519.PublicKey) (*attest.SignedPolicy, error)) (*attest.SignedPolicy, error) {
	text, err := cli.ReadInput(path)
	if err != nil {
		return nil, err
	}
	key, err := cli.ReadPublicKey[ed25519.PublicKey](keyFile, cli.PolicyAlgorithm)
	if err != nil {
		return nil, err
	}
	signed, err := open(text, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return signed, nil
}

// rowsOfVerdict prints each check, then what it comes to.
func rowsOfVerdict(w io.Writer, v *appraisal.Verdict) {
	for _, c := range v.Checks {
		cli.Row(w, string(c.Result), c.Code, c.Name)
		if c.Detail != "" {
			cli.Row(w, "", "", "  "+c.Detail)
		}
	}
	cli.Row(w, "")
	if v.Policy != nil {
		cli.Row(w, "policy", v.Policy.String())
	}
	cli.Row(w, "verdict", string(v.Result))
}
