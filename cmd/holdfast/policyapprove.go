package main

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"holdfast/appliance/keyring/scrub"
	"holdfast/appliance/launch"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

// approvalSigning is what policy approve is told.
type approvalSigning struct {
	sealKey, publisherKey, launch, out string
	version                            uint64
}

func policyApproveCommand(a *admin) *cobra.Command {
	var s approvalSigning
	c := &cobra.Command{
		Use:   "approve RELEASE --seal-key FILE --publisher-key FILE --launch FILE --version N --out FILE",
		Short: "Approve a release as the owner of a machine, so that its TPM gives the PIN to it",
		Long: "Approve a release as the owner of a machine with a launch file. RELEASE is the publisher's file\n" +
			"of authorizations. Its signatures must verify. For each state of a machine that it authorizes\n" +
			"to have the PIN, the owner's seal key signs the same state with this launch file in PCR 15.\n" +
			"Put the file beside the launch file, as approvals.json, or give it with the PIN (pin give).\n\n" +
			"The version is the owner's own: with a higher one, lower ones can be revoked in the TPM.\n" +
			"At a terminal the word \"approve\" is asked for before anything is signed.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			release, err := s.read(args[0])
			if err != nil {
				return err
			}
			cli.Row(a.Notes(cmd), "You approve, as the owner:")
			for _, sentence := range release.sentences(s.version) {
				cli.Row(a.Notes(cmd), "  "+sentence)
			}
			if err := a.confirm(cmd, &operation.Confirmation{Words: "approve", Object: args[0], Name: "approve"}); err != nil {
				return err
			}
			approvals, id, err := release.approve(s.sealKey, s.version)
			if err != nil {
				return err
			}
			text, err := seal.EncodeAuthorizations(approvals)
			if err != nil {
				return err
			}
			if err := writeAll([]newFile{{s.out, text}}); err != nil {
				return err
			}
			return a.Show(cmd, map[string]any{"approvals": len(approvals), "version": s.version, "seal_key_id": id, "launch_sha256": tpm.Hex(release.digest).String()}, func(w io.Writer) {
				cli.Row(w, "approvals", len(approvals))
				cli.Row(w, "signed by", id)
			})
		}),
	}
	f := c.Flags()
	f.StringVar(&s.sealKey, "seal-key", "", "the owner's private key of policy key --seal, readable by its owner alone")
	f.StringVar(&s.publisherKey, "publisher-key", "", "the publisher's public key (PEM, P-256), which must have signed RELEASE")
	f.StringVar(&s.launch, "launch", "", "the machine's launch file, or its user data")
	f.Uint64Var(&s.version, "version", 0, "the version of the approvals, from 1 on")
	f.StringVar(&s.out, "out", "", "file to write, which must not exist")
	f.BoolVar(&a.Yes, "yes", false, "do not have the word typed")
	for _, name := range []string{"seal-key", "publisher-key", "launch", "version", "out"} {
		_ = c.MarkFlagRequired(name) // they exist: they were made above
	}
	return c
}

// toApprove is a release that an owner is asked to approve.
type toApprove struct {
	authorizations []seal.Authorization // for the PIN
	publisher      string               // the key's ID
	digest         []byte               // of the launch file
	owner          *ecdsa.PublicKey     // as the launch file has it
}

// read reads what the publisher has signed, and the launch file.
func (s *approvalSigning) read(file string) (*toApprove, error) {
	if err := checkNew(s.out); err != nil {
		return nil, err
	}
	if s.version == 0 {
		return nil, errors.New("--version is 0; versions begin with 1")
	}
	all, err := cli.ReadAuthorizations(file, s.publisherKey)
	if err != nil {
		return nil, err
	}
	publisher, err := cli.ReadPublicKey[*ecdsa.PublicKey](s.publisherKey, cli.SealAlgorithm)
	if err != nil {
		return nil, err
	}
	r := &toApprove{}
	if r.publisher, err = seal.KeyID(publisher); err != nil {
		return nil, err
	}
	text, signed, err := readLaunch(s.launch, "")
	if err != nil {
		return nil, fmt.Errorf("--launch: %w", err)
	}
	f, err := launch.Parse(s.launch, text)
	if signed != nil {
		f, err = launch.Take(s.launch, signed)
	}
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(text)
	r.digest, r.owner = digest[:], f.SealKey
	r.authorizations = slices.DeleteFunc(all, func(a seal.Authorization) bool { return a.By != seal.Publisher || a.Use != seal.Credential })
	if len(r.authorizations) == 0 {
		return nil, fmt.Errorf("%s authorizes no machine to have the PIN; give the file that policy sign --authorizations wrote", file)
	}
	return r, r.check(s.sealKey)
}

// sentences say what is approved.
func (r *toApprove) sentences(version uint64) []string {
	says := []string{
		fmt.Sprintf("The launch file is the one with the SHA-256 %x.", r.digest),
		fmt.Sprintf("The publisher has signed with the key %s.", r.publisher),
	}
	for _, a := range r.authorizations {
		says = append(says, fmt.Sprintf("A machine in the state %q may have the PIN. The publisher's version is %d, yours %d.", a.Name, a.Version, version))
		pcrs := maps.Clone(a.PCRs)
		if value, err := tpm.LaunchValue(a.Bank, r.digest); err == nil { // a bank that is none is refused before
			pcrs[tpm.LaunchPCR] = value
		}
		for _, n := range slices.Sorted(maps.Keys(pcrs)) {
			says = append(says, fmt.Sprintf("  PCR %d is %s.", n, pcrs[n]))
		}
	}
	return append(says, "You do not approve the key of the state volume: the publisher alone authorizes it, and it opens no PIN.")
}

// approve signs with the key in the file, and gives the key's ID.
func (r *toApprove) approve(keyFile string, version uint64) (approvals []seal.Authorization, id string, err error) {
	err = withSealKey(keyFile, func(private *ecdsa.PrivateKey) error {
		if id, err = seal.KeyID(&private.PublicKey); err != nil {
			return err
		}
		approvals, err = seal.ApproveRelease(private, r.authorizations, r.digest, version)
		return err
	})
	return approvals, id, err
}

// check says why the key in the file is not the one of the launch file.
func (r *toApprove) check(keyFile string) error {
	return withSealKey(keyFile, func(private *ecdsa.PrivateKey) error {
		if r.owner.Equal(&private.PublicKey) {
			return nil
		}
		id, err1 := seal.KeyID(&private.PublicKey)
		named, err2 := seal.KeyID(r.owner)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		return fmt.Errorf("--seal-key: %s is the key %s, and the launch file has %s as owner.seal_key: no machine with it would take the approvals; give the private key of that one", keyFile, id, named)
	})
}

// withSealKey has do use the private key in the file.
func withSealKey(file string, do func(*ecdsa.PrivateKey) error) (err error) {
	scrub.Do(func() {
		var private *ecdsa.PrivateKey
		if private, err = readPrivateKey[*ecdsa.PrivateKey]("--seal-key", file, cli.SealAlgorithm); err == nil {
			err = do(private)
		}
	})
	return err
}

func policySucceedCommand(a *admin) *cobra.Command {
	var sealKey, before, out string
	c := &cobra.Command{
		Use:   "succeed NEXT --seal-key FILE --out FILE [--before FILE]",
		Short: "Put another owner's seal key in the place of the present one, so that no PIN is given again",
		Long: "Put another owner's seal key in the place of the present one. NEXT is the next public key. What\n" +
			"it approves opens a PIN that was sealed to the present one. Name NEXT in the launch file as\n" +
			"owner.seal_key, sign that, approve the release with the next key, and put the file of this\n" +
			"command beside the launch file, as successions.json.\n\n" +
			"The present key can still approve, until the PIN is given again: after a theft give it again.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			next, err := cli.ReadPublicKey[*ecdsa.PublicKey](args[0], cli.SealAlgorithm)
			if err != nil {
				return err
			}
			var all []seal.Succession
			if before != "" {
				text, err := cli.ReadInput(before)
				if err == nil {
					all, err = seal.ParseSuccessions(text)
				}
				if err != nil {
					return fmt.Errorf("%s: %w", before, err)
				}
			}
			s, from, err := succeed(sealKey, next)
			if err != nil {
				return err
			}
			to, err := seal.KeyID(next)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			text, err := seal.EncodeSuccessions(append(all, *s))
			if err != nil {
				return err
			}
			if err := writeAll([]newFile{{out, text}}); err != nil {
				return err
			}
			return a.Show(cmd, map[string]any{"from": from, "to": to, "successions": len(all) + 1}, func(w io.Writer) {
				cli.Row(w, "from", from)
				cli.Row(w, "to", to)
			})
		}),
	}
	f := c.Flags()
	f.StringVar(&sealKey, "seal-key", "", "the present owner's private key of policy key --seal, readable by its owner alone")
	f.StringVar(&before, "before", "", "file of earlier successions, which the new file has too")
	f.StringVar(&out, "out", "", "file to write, which must not exist")
	for _, name := range []string{"seal-key", "out"} {
		_ = c.MarkFlagRequired(name) // they exist: they were made above
	}
	return c
}

// succeed signs the succession with the key in the file, and gives that key's ID.
func succeed(keyFile string, next *ecdsa.PublicKey) (s *seal.Succession, id string, err error) {
	err = withSealKey(keyFile, func(private *ecdsa.PrivateKey) error {
		if private.PublicKey.Equal(next) {
			return errors.New("the next key is the present one; make another with holdfast policy key --seal")
		}
		if id, err = seal.KeyID(&private.PublicKey); err == nil {
			s, err = seal.Succeed(private, next, seal.Credential)
		}
		return err
	})
	return s, id, err
}
