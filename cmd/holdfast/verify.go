package main

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
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
	certificate                  string
	report, vek, crl, document   string
	quote, signature, ak         string
	pcrs, eventLog               string
}

func verifyCommand(a *admin) *cobra.Command {
	var f verifyFlags
	c := &cobra.Command{
		Use:   "verify [EVIDENCE] [--policy FILE --policy-key FILE]",
		Short: "Check evidence of what a machine runs, offline",
		Long: "Check evidence of what a machine runs, offline: an evidence file, or the documents\n" +
			"that hardware signed one by one. It needs no network, no TPM and no configuration.\n" +
			"It exits 0 if all that matters was checked and passed, 1 if a check failed, 2 if the\n" +
			"input is unusable, and 3 if nothing failed and the verdict is incomplete, as something\n" +
			"that matters was not given: a nonce, the certificate, a signed policy with references,\n" +
			"or what ties single documents to each other.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			var v *appraisal.Verdict
			err := saysNothing(cmd.Flags())
			if err == nil {
				v, err = f.appraise(args)
			}
			if err != nil {
				return fmt.Errorf("%w: %w", cli.ErrUnusable, err)
			}
			if err := a.showVerdict(cmd, v); err != nil {
				return err
			}
			switch v.Result {
			case appraisal.Pass:
				return nil
			case appraisal.Incomplete:
				return cli.ErrIncomplete
			}
			return cli.ErrReported
		}),
	}
	fs := c.Flags()
	fs.StringVar(&f.policy, "policy", "", "appraisal policy, signed or your own; the default policy without it")
	fs.StringVar(&f.policyKey, "policy-key", "", "public key (PEM, Ed25519) that the policy must be signed by")
	fs.StringVar(&f.nonce, "nonce", "", "the nonce that you asked with, in hexadecimal")
	fs.StringVar(&f.certificate, "tls-cert", "", "the certificate (PEM) that the machine showed you, whose key the evidence must name")
	fs.StringVar(&f.at, "at", "", "the time to appraise at (RFC 3339); without it now if there is a --nonce, or else the evidence's own")
	fs.StringVar(&f.report, "snp-report", "", "SEV-SNP attestation report, 1184 bytes")
	fs.StringVar(&f.vek, "vek", "", "certificate of the key that signed it, VLEK or VCEK (DER)")
	fs.StringVar(&f.crl, "crl", "", "AMD's list of revocations (DER)")
	fs.StringVar(&f.document, "nitro-document", "", "NitroTPM attestation document (COSE_Sign1)")
	fs.StringVar(&f.quote, "tpm-quote", "", "quote (TPMS_ATTEST)")
	fs.StringVar(&f.signature, "tpm-signature", "", "its signature (TPMT_SIGNATURE)")
	fs.StringVar(&f.ak, "ak", "", "public area of the attestation key (TPMT_PUBLIC)")
	fs.StringVar(&f.pcrs, "pcrs", "", `the quoted PCR values (JSON: {"sha384": {"4": "hex"}})`)
	fs.StringVar(&f.eventLog, "event-log", "", "the firmware's event log")
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

func (f *verifyFlags) appraise(args []string) (*appraisal.Verdict, error) {
	policy, signed, err := readPolicy(f.policy, f.policyKey)
	if err != nil {
		return nil, err
	}
	var at time.Time
	if f.at != "" {
		if at, err = time.Parse(time.RFC3339, f.at); err != nil {
			return nil, fmt.Errorf("--at %q is not a time such as 2026-11-23T12:00:00Z", f.at)
		}
	}
	if f.crl != "" && f.report == "" {
		return nil, errors.New("--crl is for a --snp-report, and there is none")
	}
	if f.report != "" || f.document != "" || f.quote != "" {
		if len(args) > 0 {
			return nil, errors.New("give an evidence file, or single documents, not both")
		}
		if f.nonce != "" || f.certificate != "" {
			return nil, errors.New("--nonce and --tls-cert are for evidence files: single documents do not say where theirs are")
		}
		parts, err := f.parts()
		if err != nil {
			return nil, err
		}
		return attest.VerifyParts(*parts, policy, attest.Expectation{At: at, Signed: signed}, time.Now()), nil
	}
	if len(args) == 0 {
		return nil, errors.New("give an evidence file, or documents such as --snp-report; see holdfast verify --help")
	}
	evidence, x, err := readEvidence(args[0], f.nonce)
	if err != nil {
		return nil, err
	}
	x.At, x.Signed = at, signed
	if f.certificate != "" {
		if x.TLSKey, err = readCertificateKey(f.certificate); err != nil {
			return nil, err
		}
	}
	return attest.Verify(evidence, policy, x), nil
}

// readEvidence reads an evidence file, and what the nonce, if one is given, has
// to be.
func readEvidence(path, nonce string) (*attest.Evidence, attest.Expectation, error) {
	var x attest.Expectation
	text, err := cli.ReadInput(path)
	if err != nil {
		return nil, x, err
	}
	evidence, err := attest.Parse(text)
	if err != nil {
		return nil, x, err
	}
	if nonce != "" {
		if x.Nonce, err = hex.DecodeString(nonce); err != nil {
			return nil, x, fmt.Errorf("--nonce %.80q is not in hexadecimal", nonce)
		}
	}
	return evidence, x, nil
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
		p.Report = snp.NewReport(snp.Evidence{Report: read(f.report), VEK: read(f.vek), CRL: read(f.crl)})
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

// showVerdict prints each check, then what it comes to.
func (a *admin) showVerdict(cmd *cobra.Command, v *appraisal.Verdict) error {
	return a.Show(cmd, v, func(w io.Writer) { rowsOfVerdict(w, v) })
}

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
