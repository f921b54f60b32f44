package main

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"holdfast/appliance/keyring/scrub"
	"holdfast/appliance/launch"
	"holdfast/attest"
	"holdfast/attest/appraisal"
	"holdfast/attest/ask"
	"holdfast/attest/release"
	"holdfast/attest/tpm/seal"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func pinCommand(a *admin) *cobra.Command {
	return cli.Group("pin", "Give the HSM's PIN to a machine as its owner", pinGiveCommand(a))
}

// pinGiving is what pin give is told.
type pinGiving struct {
	verifyFlags
	ownerKey, approvals, pinFile string
}

func pinGiveCommand(a *admin) *cobra.Command {
	var g pinGiving
	c := &cobra.Command{
		Use:   "give URL --owner FILE --launch FILE --policy FILE --policy-key FILE [--approvals FILE] [--pin-file FILE]",
		Short: "Check a machine, and give it the HSM's PIN if it passes",
		Long: "Give the HSM's PIN to a machine as its owner. The machine is asked for evidence with a fresh\n" +
			"nonce. It must name the TLS key of that connection, meet the signed policy in all that matters,\n" +
			"run by this launch file, and be the owner's. Only then the PIN is read, from the terminal,\n" +
			"standard input or --pin-file. It is encrypted to a key in fresh evidence, signed by the owner,\n" +
			"and taken once, within a minute. The machine seals it and boots on.\n\n" +
			"With --approvals (policy approve) the machine gets those as well. It takes no PIN that would\n" +
			"not open. No account is needed there; the owner's signature is what counts.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			if err := saysNothing(cmd.Flags()); err != nil {
				return cli.Unusable(err)
			}
			to, err := g.recipient(cmd, a, args[0])
			if err != nil {
				return err
			}
			defer clear(to.owner)
			return to.give(&g)
		}),
	}
	f := c.Flags()
	f.StringVar(&g.ownerKey, "owner", "", "the owner's private key (PEM, Ed25519), which has signed the launch file")
	f.StringVar(&g.launch, "launch", "", "the machine's launch file, or its user data")
	f.StringVar(&g.policy, "policy", "", "the signed policy that the machine must meet")
	f.StringVar(&g.policyKey, "policy-key", "", "public key (PEM, Ed25519) that the policy must be signed by")
	f.StringVar(&g.approvals, "approvals", "", "file of policy approve, which goes along")
	f.StringVar(&g.pinFile, "pin-file", "", "file with the PIN, which only its owner may read; without it the terminal or standard input")
	f.StringArrayVar(&g.crls, "crl", nil, "AMD's list of revocations (DER), your own; may be repeated")
	f.StringVar(&g.tcb, "tcb", "", "TCB recovery file, signed by the --policy-key, which raises the policy's floors")
	f.StringVar(&g.ca, "ca", "", "certificates (PEM) under which that of the address may be signed; the system's without it")
	for _, name := range []string{"owner", "launch", "policy", "policy-key"} {
		_ = c.MarkFlagRequired(name) // they exist: they were made above
	}
	return c
}

// recipient is a machine that may get the PIN, and what it is held against.
type recipient struct {
	a         *admin
	cmd       *cobra.Command
	address   string
	verify    *verifyFlags
	policy    *attest.SignedPolicy
	expected  attest.Expectation
	owner     ed25519.PrivateKey // the caller zeroizes it
	approvals []byte             // nil for none
}

// recipient reads all files but the PIN, which must go together.
func (g *pinGiving) recipient(cmd *cobra.Command, a *admin, address string) (*recipient, error) {
	policy, err := openPolicy(g.policy, g.policyKey)
	if err != nil {
		return nil, err
	}
	r := &recipient{a: a, cmd: cmd, address: address, verify: &g.verifyFlags, policy: policy.signed}
	r.expected = attest.Expectation{Signed: policy.signed, Release: true, Roots: a.roots}
	if r.expected.Endorsements, err = (endorsementFiles{g.crls, g.tcb, g.policyKey}).read("--", a.roots); err != nil {
		return nil, err
	}
	if err := g.expectLaunch(&r.expected); err != nil {
		return nil, err
	}
	file, err := g.launchFile()
	if err != nil {
		return nil, err
	}
	if r.approvals, err = g.readApprovals(file.SealKey); err != nil {
		return nil, err
	}
	if r.owner, err = readPrivateKey[ed25519.PrivateKey]("--owner", g.ownerKey, cli.PolicyAlgorithm); err != nil {
		return nil, err
	}
	public := r.owner.Public().(ed25519.PublicKey)
	if !file.PolicyKey.Equal(public) {
		clear(r.owner)
		return nil, fmt.Errorf("--owner: %s is the key %s, and %s has %s as owner.policy_key; give the private key of that one", g.ownerKey, attest.KeyID(public), g.launch, attest.KeyID(file.PolicyKey))
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		clear(r.owner)
		return nil, err
	}
	digest := sha256.Sum256(der)
	r.expected.OwnerDigest = digest[:]
	return r, nil
}

// launchFile reads the launch file.
func (g *pinGiving) launchFile() (*launch.File, error) {
	text, signed, err := readLaunch(g.launch, "")
	if err != nil {
		return nil, fmt.Errorf("--launch: %w", err)
	}
	if signed != nil {
		return launch.Take(g.launch, signed)
	}
	return launch.Parse(g.launch, text)
}

// readApprovals reads the approvals, all of which the key must have signed; nil if none are
// given.
func (g *pinGiving) readApprovals(key *ecdsa.PublicKey) ([]byte, error) {
	if g.approvals == "" {
		return nil, nil
	}
	text, err := cli.ReadInput(g.approvals)
	if err != nil {
		return nil, err
	}
	all, err := seal.ParseAuthorizations(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", g.approvals, err)
	}
	for _, approval := range all {
		if approval.By != seal.Owner {
			return nil, fmt.Errorf("%s: %q is the publisher's and no approval; make the file with holdfast policy approve", g.approvals, approval.Name)
		}
		if err := approval.Verify(key); err != nil {
			return nil, fmt.Errorf("%s: %w", g.approvals, err)
		}
	}
	return text, nil
}

// give checks the machine, reads the PIN, and gives it by fresh evidence, so that it does
// not matter how long a person takes to type.
func (r *recipient) give(g *pinGiving) error {
	roots, err := readRoots(g.ca)
	if err != nil {
		return err
	}
	asker := r.a.asker(r.cmd, roots)
	if _, _, err := r.examine(asker); err != nil {
		return err
	}
	notes := r.a.Notes(r.cmd)
	cli.Row(notes, fmt.Sprintf("%s passes: it meets the policy %q, version %d, and runs by your launch file %x.", r.address, r.policy.Name, r.policy.Version, r.expected.LaunchDigest))
	var envelope []byte
	var o *online
	scrub.Do(func() {
		var pin []byte
		if pin, err = r.readPIN(g.pinFile); err != nil {
			return
		}
		defer clear(pin)
		var challenge *release.Challenge
		if o, challenge, err = r.examine(asker); err == nil {
			envelope, err = release.Give(challenge, pin, r.approvals, r.owner)
		}
	})
	if err != nil {
		return err
	}
	if err := asker.Tell(r.cmd.Context(), o.Answer, operation.PINPath, envelope); err != nil {
		return err
	}
	return r.a.Show(r.cmd, map[string]any{"address": o.Address, "policy": r.policy.Name, "policy_version": r.policy.Version, "launch_sha256": fmt.Sprintf("%x", r.expected.LaunchDigest), "approvals": r.approvals != nil}, func(w io.Writer) {
		cli.Row(w, "The machine has the PIN and has sealed it. It boots on: holdfast status says how.")
	})
}

// examine asks for a challenge and appraises its evidence, which must pass.
func (r *recipient) examine(asker *ask.Asker) (*online, *release.Challenge, error) {
	var challenge *release.Challenge
	answer, err := asker.AskAt(r.cmd.Context(), r.address, operation.PINPath, func(body []byte) (text []byte, err error) {
		if challenge, _, err = release.ParseChallenge(body); err != nil {
			return nil, err
		}
		return challenge.Evidence, nil
	})
	if err != nil {
		return nil, nil, err
	}
	o := appraiseOnline(answer, &r.policy.Policy, r.expected)
	if o.verdict.Result == appraisal.Pass {
		return o, challenge, nil
	}
	rowsOfVerdict(r.a.Notes(r.cmd), o.verdict)
	return nil, nil, fmt.Errorf("%s gets no PIN: %w", r.address, o.verdict.Err())
}

// readPIN reads the PIN, from a terminal without showing it.
func (r *recipient) readPIN(file string) ([]byte, error) {
	in, isFile := r.cmd.InOrStdin().(*os.File)
	if file != "" || !isFile || !term.IsTerminal(int(in.Fd())) { //nolint:gosec // a descriptor fits
		return readPIN(r.cmd, file)
	}
	_, _ = fmt.Fprint(r.a.Notes(r.cmd), "PIN of the HSM: ")
	pin, err := term.ReadPassword(int(in.Fd())) //nolint:gosec // a descriptor fits
	cli.Row(r.a.Notes(r.cmd), "")
	switch {
	case err != nil:
		return nil, fmt.Errorf("the terminal: %w", err)
	case len(pin) == 0:
		return nil, errors.New("the terminal: the PIN is empty; nothing was sent")
	}
	return pin, nil
}
