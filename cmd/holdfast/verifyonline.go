package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"holdfast/attest"
	"holdfast/attest/appraisal"
	"holdfast/attest/ask"
	"holdfast/cmd/internal/cli"
)

// connection is the fact of evidence that was asked for: what the connection was, on which it
// came.
type connection struct {
	Address     string `json:"address"`
	Certificate string `json:"certificate_sha256"`
	TLSKey      string `json:"tls_key_sha256"`
	// Vouched says whether an authority vouches for the certificate under the address's host,
	// and NotVouched why not. It changes no verdict: the evidence has to name the key.
	Vouched    bool   `json:"vouched"`
	NotVouched string `json:"not_vouched,omitempty"`
}

// online is evidence that was asked for, and what came of it.
type online struct {
	*ask.Answer
	conn    connection
	verdict *appraisal.Verdict
}

// asker asks appliances, and tells the user when it waits.
func (a *admin) asker(cmd *cobra.Command, roots *x509.CertPool) *ask.Asker {
	return &ask.Asker{Roots: roots, Waits: func(d time.Duration, why string) {
		fmt.Fprintf(a.Notes(cmd), "it answers %s; it is asked again in %s\n", why, d)
	}}
}

// verifyOnline asks the appliance at the address for evidence, and appraises it: one nonce, one
// connection, one verdict. The expectation is what is known besides.
func verifyOnline(ctx context.Context, asker *ask.Asker, address string, p *attest.Policy, x attest.Expectation) (*online, error) {
	answer, err := asker.Ask(ctx, address)
	if err != nil {
		return nil, err
	}
	return appraiseOnline(answer, p, x), nil
}

// appraiseOnline appraises what an appliance answered.
func appraiseOnline(answer *ask.Answer, p *attest.Policy, x attest.Expectation) *online {
	answer.At = answer.At.Truncate(time.Second) // what --at can say
	o := &online{Answer: answer, conn: connection{Address: answer.Address, Certificate: hexDigest(answer.Certificate.Raw), TLSKey: hexDigest(answer.TLSKey()), Vouched: answer.Untrusted == nil}}
	if answer.Untrusted != nil {
		o.conn.NotVouched = cli.NewFailure(answer.Untrusted).Message
	}
	x.At, x.Nonce, x.TLSKey = answer.At, answer.Nonce, answer.TLSKey()
	o.verdict = attest.Verify(answer.Evidence, p, x)
	o.verdict.Facts["connection"] = o.conn
	return o
}

// policyFile is a policy to appraise by; signed is what it is the content of, nil if nobody has
// signed it.
type policyFile struct {
	policy *attest.Policy
	signed *attest.SignedPolicy
}

func hexDigest(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

// readRoots reads the authorities of --ca; nil, for the system's, without one.
func readRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	text, err := cli.ReadInput(path)
	if err != nil {
		return nil, fmt.Errorf("--ca: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("--ca: %s has no certificate in PEM", path)
	}
	return roots, nil
}

// certificatePath is where the certificate lies that came with the evidence of a file.
func certificatePath(out string) string { return strings.TrimSuffix(out, ".json") + ".pem" }

// keep writes the evidence, and beside it the certificate that the connection was made with.
// Before it the file says how to verify the two again.
func (o *online) keep(out, command string) error {
	var certificate bytes.Buffer
	fmt.Fprintf(&certificate, "The certificate that %s showed at %s, when it gave the evidence in %s.\nVerify both again with:\n%s\n\n", o.Address, stampOf(o.At), out, command)
	if err := pem.Encode(&certificate, &pem.Block{Type: "CERTIFICATE", Bytes: o.Certificate.Raw}); err != nil {
		return err
	}
	if err := writeNew(out, o.Text); err != nil {
		return err
	}
	return writeNew(certificatePath(out), certificate.Bytes())
}

// written are the files that the call is to write.
func (f *verifyFlags) written() (paths []string) {
	if f.out != "" {
		paths = append(paths, f.out, certificatePath(f.out))
	}
	if f.page != "" {
		paths = append(paths, f.page)
	}
	return paths
}

// forAddress are the flags that a call with an address may have.
var forAddress = []string{"policy", "policy-key", "crl", "tcb", "launch", "owner", "ca", "out", "report", "json"}

// ask asks the appliance at the address, and appraises what it gives.
func (f *verifyFlags) ask(cmd *cobra.Command, a *admin, address string, p *attest.Policy, x attest.Expectation) (*appraised, error) {
	var err error
	cmd.Flags().Visit(func(flag *pflag.Flag) {
		if err == nil && !slices.Contains(forAddress, flag.Name) {
			err = fmt.Errorf("--%s is for files: from an address, nonce, certificate and time are those of the connection", flag.Name)
		}
	})
	if err != nil {
		return nil, err
	}
	roots, err := readRoots(f.ca)
	if err != nil {
		return nil, err
	}
	o, err := verifyOnline(cmd.Context(), a.asker(cmd, roots), address, p, x)
	if err != nil {
		return nil, err
	}
	rows := sourceRows("the appliance at "+o.Address, o.Text, attest.Expectation{Nonce: o.Nonce, TLSKey: o.TLSKey()})
	return &appraised{verdict: o.verdict, online: o, rows: append(rows, row{Term: "Certificate of the connection", Value: o.vouched()})}, nil
}

// finish shows the verdict, and writes what the call asks for.
func (a *admin) finish(cmd *cobra.Command, f *verifyFlags, done *appraised) error {
	command := f.again(cmd, done)
	if f.out != "" {
		if err := done.online.keep(f.out, command); err != nil {
			return err
		}
	}
	if f.page != "" {
		if err := writeReport(f, done, command); err != nil {
			return err
		}
	}
	err := a.Show(cmd, done.verdict, func(w io.Writer) {
		rowsOfVerdict(w, done.verdict)
		if done.online != nil {
			done.online.show(w)
		}
		if f.out != "" {
			cli.Row(w, "evidence", f.out+", certificate in "+certificatePath(f.out))
			cli.Row(w, "again", command)
		}
		if f.page != "" {
			cli.Row(w, "report", f.page)
		}
	})
	switch {
	case err != nil:
		return err
	case done.verdict.Result == appraisal.Pass:
		return nil
	case done.verdict.Result == appraisal.Incomplete:
		return cli.ErrIncomplete
	}
	return cli.ErrReported
}

// again is the command that verifies the same evidence again, at the same time of appraisal;
// empty if the evidence was not kept.
func (f *verifyFlags) again(cmd *cobra.Command, done *appraised) string {
	evidence, flags := cmd.Flags().Args(), map[string][]string{}
	cmd.Flags().Visit(func(flag *pflag.Flag) {
		if !slices.Contains([]string{"ca", "out", "report", "json"}, flag.Name) {
			flags[flag.Name] = []string{flag.Value.String()}
			if list, ok := flag.Value.(pflag.SliceValue); ok {
				flags[flag.Name] = list.GetSlice()
			}
		}
	})
	if o := done.online; o != nil {
		if f.out == "" {
			return ""
		}
		evidence, flags["nonce"], flags["tls-cert"] = []string{f.out}, []string{fmt.Sprintf("%x", o.Nonce)}, []string{certificatePath(f.out)}
	}
	at, _ := done.verdict.Facts["appraised_at"].(string)
	flags["at"] = []string{at}
	line := append([]string{"holdfast", "verify"}, evidence...)
	for _, name := range slices.Sorted(maps.Keys(flags)) {
		for _, value := range flags[name] {
			line = append(line, "--"+name, value)
		}
	}
	return shellLine(line...)
}

// vouched says in a sentence who vouches for the certificate.
func (o *online) vouched() string {
	if o.conn.Vouched {
		return "an authority vouches for the certificate under this host's name"
	}
	return "no authority vouches for the certificate, so only its key counts: " + o.conn.NotVouched
}

// show tells what the connection was.
func (o *online) show(w io.Writer) {
	cli.Row(w, "asked", o.Address+" at "+stampOf(o.At))
	cli.Row(w, "TLS key", "SHA-256 "+o.conn.TLSKey)
	cli.Row(w, "certificate", o.vouched())
}

// shellWord gives a word as a shell takes it whole.
func shellWord(word string) string {
	if word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@%+=,") == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// shellLine gives words as one line of a shell.
func shellLine(words ...string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = shellWord(word)
	}
	return strings.Join(quoted, " ")
}
