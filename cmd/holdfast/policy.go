package main

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"holdfast/appliance/fault"
	"holdfast/appliance/keyring/scrub"
	"holdfast/attest"
	"holdfast/attest/appraisal"
	"holdfast/attest/privatefile"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
	"holdfast/cmd/internal/cli"
)

func policyCommand(a *admin) *cobra.Command {
	return cli.Group("policy", "Write and sign appraisal policies",
		policyKeyCommand(a), policyNewCommand(), policyReferenceCommand(a), policyPredictCommand(a), policySignCommand(a), policyApproveCommand(a), policySucceedCommand(a), policyShowCommand(a), policyTCBCommand(a), policyStatusCommand(a), policyInstallCommand(a))
}

func policyKeyCommand(a *admin) *cobra.Command {
	var forSeal bool
	c := &cobra.Command{
		Use:   "key FILE",
		Short: "Make a key to sign policies, or authorizations, with: FILE and FILE.pub",
		Long: "Make a key to sign with: FILE, which is secret, and FILE.pub. Policies are signed\n" +
			"with Ed25519. TPMs cannot verify that: with --seal the key is one of ECDSA on P-256,\n" +
			"which signs authorizations for them.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			generate := newPolicyKey
			if forSeal {
				generate = newSealKey
			}
			var id string
			var err error
			scrub.Do(func() { id, err = writeKey(args[0], generate) })
			if err != nil {
				return err
			}
			return a.Show(cmd, map[string]string{"key_id": id}, func(w io.Writer) { cli.Row(w, "key ID", id) })
		}),
	}
	c.Flags().BoolVar(&forSeal, "seal", false, "a key that TPMs verify (ECDSA, P-256), for policy sign --seal-key")
	return c
}

func newPolicyKey() (private, public any, id string, err error) {
	open, secret, err := ed25519.GenerateKey(rand.Reader)
	return secret, open, attest.KeyID(open), err
}

func newSealKey() (private, public any, id string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, "", err
	}
	id, err = seal.KeyID(&key.PublicKey)
	return key, &key.PublicKey, id, err
}

// writeKey makes a key and its two files, and gives the key's ID.
func writeKey(path string, generate func() (private, public any, id string, err error)) (string, error) {
	private, public, id, err := generate()
	if err != nil {
		return "", err
	}
	defer zeroize(private)
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", err
	}
	defer clear(secret)
	open, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	defer clear(text)
	if err := privatefile.Write(path, text); err != nil {
		return "", err
	}
	return id, writeNew(path+".pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: open}))
}

// zeroize overwrites a private key. One of ECDSA has no bytes of its own to
// overwrite: package scrub erases it.
func zeroize(private any) {
	if key, ok := private.(ed25519.PrivateKey); ok {
		clear(key)
	}
}

// writeNew writes a file that must not be there yet, and that everybody may read.
func writeNew(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}

func policyNewCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "new",
		Short: "Print the default policy, to begin from",
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			text, err := json.MarshalIndent(attest.DefaultPolicy(), "", "  ")
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", text)
			return err
		}),
	}
}

func policyReferenceCommand(a *admin) *cobra.Command {
	var name, nonce, out string
	var replace bool
	c := &cobra.Command{
		Use:   "reference POLICY EVIDENCE --name NAME --out FILE",
		Short: "Add the PCR values of evidence to an unsigned policy, as those of a release",
		Long: "Add the PCR values of evidence to an unsigned policy, as those of a known release.\n" +
			"The evidence must pass all checks of the policy, but for the references that it has\n" +
			"already; what could not be checked is listed. Nothing else changes: a new version of the\n" +
			"policy is for you to set.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			p, err := readUnsignedPolicy(args[0])
			if err != nil {
				return err
			}
			r, unchecked, err := referenceFrom(args[1], nonce, name, p)
			if err != nil {
				return err
			}
			if err := writeReference(p, r, replace, out); err != nil {
				return err
			}
			return a.Show(cmd, madeReference{r, append([]appraisal.Check{}, unchecked...)}, func(w io.Writer) {
				cli.Row(w, "reference", r.Name)
				rowsOfPCRs(w, "", r.PCRs)
				for _, c := range unchecked {
					cli.Row(w, "unchecked", c.Code, c.Detail)
				}
			})
		}),
	}
	c.Flags().StringVar(&name, "name", "", `whose values they are, such as "release 1.2.0"`)
	c.Flags().StringVar(&nonce, "nonce", "", "the nonce that you asked with, in hexadecimal")
	c.Flags().StringVar(&out, "out", "", "file to write, which must not exist")
	c.Flags().BoolVar(&replace, "replace", false, "replace the reference of that name")
	_ = c.MarkFlagRequired("name") // they exist: they were made above
	_ = c.MarkFlagRequired("out")
	return c
}

// readUnsignedPolicy reads a policy that its signer still works on.
func readUnsignedPolicy(path string) (*attest.Policy, error) {
	text, err := cli.ReadInput(path)
	if err != nil {
		return nil, err
	}
	p, err := attest.ParsePolicy(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; if it is a signed policy, give it as it was before", path, err)
	}
	return p, nil
}

// madeReference is a reference with the checks that its evidence was not asked: they matter,
// and something was not given.
type madeReference struct {
	tpm.Reference
	Unchecked []appraisal.Check `json:"unchecked"`
}

// referenceFrom gives the reference that the evidence matches, if the evidence passes all
// checks of the policy but that for references; and the checks that could not be run.
func referenceFrom(path, nonce, name string, p *attest.Policy) (r tpm.Reference, unchecked []appraisal.Check, err error) {
	e, given, err := readEvidence(path, nonce)
	if err != nil {
		return r, nil, err
	}
	if e.TPM == nil {
		return r, nil, fmt.Errorf("%s has no TPM quote, so no PCR values; collect evidence on a machine with a TPM", path)
	}
	open := *p
	open.TPM.References = nil
	v := attest.Verify(e, &open, attest.Expectation{Nonce: given})
	if err := takesForReference(v); err != nil {
		return r, nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, c := range v.Checks {
		if c.Result == appraisal.Missing && c.Code != string(fault.TPMReference) && c.Code != string(fault.PolicyUnproven) {
			unchecked = append(unchecked, c) // the two are what the reference is made for
		}
	}
	r, err = tpm.NewReference(name, e.TPM, p.TPM)
	return r, unchecked, err
}

// unaskedOfReference are the checks without which evidence may give a reference: the
// references and what they prove are still to come, and the person who makes the
// reference says whose the evidence is, and when it was made.
var unaskedOfReference = []fault.Code{fault.TPMReference, fault.PolicyUnproven, fault.EvidenceNonce, fault.EvidenceTLSKey, fault.EvidenceTime}

// takesForReference says why evidence of that verdict gives no reference.
func takesForReference(v *appraisal.Verdict) error {
	if v.Result == appraisal.Incomplete && !slices.ContainsFunc(v.Lacks(), func(code string) bool { return !slices.Contains(unaskedOfReference, fault.Code(code)) }) {
		return nil
	}
	return v.Err()
}

// writeReference writes the policy, with the reference, to a file that must not be
// there yet.
func writeReference(p *attest.Policy, r tpm.Reference, replace bool, out string) error {
	if err := addReference(&p.TPM, r, replace); err != nil {
		return err
	}
	if err := p.Validate(); err != nil {
		return err
	}
	text, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	return writeNew(out, append(text, '\n'))
}

func rowsOfPCRs(w io.Writer, prefix string, values map[int]tpm.Hex) {
	for _, i := range slices.Sorted(maps.Keys(values)) {
		cli.Row(w, fmt.Sprintf("%sPCR %d", prefix, i), values[i])
	}
}

// addReference adds the reference, or puts it in the place of the one of its
// name.
func addReference(p *tpm.Policy, r tpm.Reference, replace bool) error {
	i := slices.IndexFunc(p.References, func(o tpm.Reference) bool { return o.Name == r.Name })
	switch {
	case i < 0:
		p.References = append(p.References, r)
	case replace:
		p.References[i] = r
	default:
		return fmt.Errorf("the policy has a reference %q already: use another --name, or --replace", r.Name)
	}
	return nil
}

func policySignCommand(a *admin) *cobra.Command {
	var key, out, sealKey, authorizations, unproven string
	c := &cobra.Command{
		Use:   "sign POLICY --key FILE --out FILE [--seal-key FILE --authorizations FILE] [--unproven WORDS]",
		Short: "Sign a policy, and authorizations for TPMs to release the credential by",
		Long: "Sign a policy. With --seal-key and --authorizations, also sign leave for TPMs: for each\n" +
			"reference of the policy one authorization to release the credential, and one to open the\n" +
			"state volume of an image, with the policy's version.\n\n" +
			"A policy that does not prove which code runs is refused: one without references, or one\n" +
			"that a software TPM can meet. --unproven signs it all the same. Its WORDS, which say why,\n" +
			"are written into the policy, and stand in the log and in every verdict under it.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			p, err := readUnsignedPolicy(args[0])
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("unproven") {
				if p.Unproven = unproven; unproven == "" {
					return errors.New("--unproven: say why the policy is good enough")
				}
			}
			signed, id, err := signPolicy(p, key)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			forced := p.Forced()
			result := map[string]any{"name": p.Name, "version": p.Version, "key_id": id, "admits": p.Admits()}
			if forced.Words != "" {
				result["unproven"], result["unproven_because"] = forced.Words, forced.Because
			}
			files := []newFile{{out, signed}}
			if sealKey != "" {
				authorized, n, sealID, err := authorize(p, sealKey)
				if err != nil {
					return err
				}
				result["seal_key_id"], result["authorizations"] = sealID, n
				files = append(files, newFile{authorizations, authorized})
			}
			if err := writeAll(files); err != nil {
				return err
			}
			return a.Show(cmd, result, func(w io.Writer) {
				cli.Row(w, "policy", fmt.Sprintf("%s, version %d", p.Name, p.Version))
				cli.Row(w, "signed by", id)
				rowsOfUnproven(w, forced)
				cli.Row(w, "lets in")
				for _, sentence := range p.Admits() {
					cli.Row(w, "", sentence)
				}
				if sealKey != "" {
					cli.Row(w, "authorizations", result["authorizations"])
					cli.Row(w, "authorized by", result["seal_key_id"])
				}
			})
		}),
	}
	c.Flags().StringVar(&key, "key", "", "private key (PEM), readable by its owner alone")
	c.Flags().StringVar(&out, "out", "", "file to write, which must not exist")
	c.Flags().StringVar(&sealKey, "seal-key", "", "private key of policy key --seal, which signs the authorizations")
	c.Flags().StringVar(&authorizations, "authorizations", "", "file to write them to, which must not exist")
	c.Flags().StringVar(&unproven, "unproven", "", "sign a policy that does not prove which code runs; 1 to 200 characters that say why it is good enough")
	_ = c.MarkFlagRequired("key") // they exist: they were made above
	_ = c.MarkFlagRequired("out")
	c.MarkFlagsRequiredTogether("seal-key", "authorizations")
	return c
}

// rowsOfUnproven says by which words a policy is forced, and what it does not prove.
func rowsOfUnproven(w io.Writer, u attest.Unproven) {
	if u.Words == "" {
		return
	}
	cli.Row(w, "unproven", u.Words)
	for _, why := range u.Because {
		cli.Row(w, "", why)
	}
}

// signPolicy gives the signed policy, and the ID of the key in the file.
func signPolicy(p *attest.Policy, keyFile string) (signed []byte, id string, err error) {
	private, err := readPrivateKey[ed25519.PrivateKey]("--key", keyFile, cli.PolicyAlgorithm)
	if err != nil {
		return nil, "", err
	}
	defer clear(private)
	signed, err = attest.SignPolicy(p, private)
	return signed, attest.KeyID(private.Public().(ed25519.PublicKey)), err
}

// authorize gives the file of authorizations of the policy's references, how many
// they are, and the ID of the key in the file.
func authorize(p *attest.Policy, keyFile string) (file []byte, n int, id string, err error) {
	err = withSealKey(keyFile, func(private *ecdsa.PrivateKey) error {
		if id, err = seal.KeyID(&private.PublicKey); err != nil {
			return fmt.Errorf("--seal-key: %s: %w; make one with holdfast policy key --seal", keyFile, err)
		}
		all, err := seal.AuthorizeReferences(private, p.TPM, p.Version)
		if err != nil {
			return err
		}
		n = len(all)
		file, err = seal.EncodeAuthorizations(all)
		return err
	})
	return file, n, id, err
}

// newFile is one to write, which must not be there yet.
type newFile struct {
	path    string
	content []byte
}

// writeAll writes all of the files, each with a line's end, or leaves none.
func writeAll(files []newFile) error {
	for i, f := range files {
		if err := writeNew(f.path, append(f.content, '\n')); err != nil {
			for _, written := range files[:i] {
				err = errors.Join(err, os.Remove(written.path))
			}
			return err
		}
	}
	return nil
}

// readPrivateKey reads a key of the type K. Otherwise it says what the keys are
// for.
func readPrivateKey[K any](flag, path, purpose string) (private K, err error) {
	text, err := cli.ReadSecretFile(flag, path)
	if err != nil {
		return private, err
	}
	defer clear(text)
	block, _ := pem.Decode(append(text, '\n')) // readSecretFile takes the line's end away
	if block == nil || block.Type != "PRIVATE KEY" {
		return private, fmt.Errorf("%s: %s is not a private key in PEM", flag, path)
	}
	defer clear(block.Bytes)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return private, fmt.Errorf("%s: %s: %w", flag, path, err)
	}
	private, ok := key.(K)
	if !ok {
		kind := cli.KindOfKey(key)
		zeroize(key)
		return private, fmt.Errorf("%s: %s is %s; %s", flag, path, kind, purpose)
	}
	return private, nil
}

func policyShowCommand(a *admin) *cobra.Command {
	var key, sealKey string
	c := &cobra.Command{
		Use:   "show FILE [--policy-key FILE | --seal-key FILE]",
		Short: "Print a policy, or authorizations whose signature verifies",
		Long: "Print a signed policy, or authorizations, whose signature verifies; or, without a key, a policy\n" +
			"that nobody has signed. \"signed_by\" is the ID of the key, or \"unsigned\". \"admits\" says in\n" +
			"sentences which machines pass the policy. \"unproven_because\" says why it does not prove which\n" +
			"code runs, and \"unproven\" the words that it is used by.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			if sealKey != "" {
				all, err := cli.ReadAuthorizations(args[0], sealKey)
				if err != nil {
					return err
				}
				return a.PrintJSON(cmd, all)
			}
			if key == "" {
				p, err := readUnsignedPolicy(args[0])
				if err != nil {
					return cli.Unusable(fmt.Errorf("%w; give --policy-key or --seal-key if it is signed", err))
				}
				return a.PrintJSON(cmd, shownPolicy{p, appraisal.Unsigned})
			}
			p, err := readSignedPolicy(args[0], key, attest.ReadPolicy)
			if err != nil {
				return err
			}
			return a.PrintJSON(cmd, shownPolicy{&p.Policy, p.Signer})
		}),
	}
	c.Flags().StringVar(&key, "policy-key", "", "public key (PEM) that a policy must be signed by")
	c.Flags().StringVar(&sealKey, "seal-key", "", "public key (PEM) that authorizations must be signed by")
	c.MarkFlagsMutuallyExclusive("policy-key", "seal-key")
	return c
}

// shownPolicy is a policy, with who has signed it, whom it lets in, and why it does not
// prove which code runs.
type shownPolicy struct {
	*attest.Policy
	signer string
}

// MarshalJSON gives the members of the policy's file, and some more.
func (p shownPolicy) MarshalJSON() ([]byte, error) {
	text, err := p.Policy.MarshalJSON()
	if err != nil {
		return nil, err
	}
	more, err := json.Marshal(struct {
		SignedBy string   `json:"signed_by"`
		Admits   []string `json:"admits"`
		Because  []string `json:"unproven_because,omitempty"`
	}{p.signer, p.Admits(), p.Gaps()})
	return slices.Concat(text[:len(text)-1], []byte(","), more[1:]), err
}
