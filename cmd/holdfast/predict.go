package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/parts"
	"holdfast/attest"
	"holdfast/attest/predict"
	"holdfast/attest/tpm"
	"holdfast/cmd/internal/cli"
)

// Where the image has what Holdfast measures of itself, besides the modules that
// the configuration names.
const (
	imageProgram = "/usr/bin/holdfastd"
	imageConfig  = "/etc/holdfast/holdfast.toml"
)

// prediction is what a machine will have that boots an image.
type prediction struct {
	PCRs tpm.PCRs `json:"pcrs"`
	// Measurements explain PCR 14.
	Measurements []tpm.Measurement `json:"measurements"`
	CommandLine  string            `json:"command_line"`
	// Reference is what was added to a policy.
	Reference *tpm.Reference `json:"reference,omitempty"`
}

func policyPredictCommand(a *admin) *cobra.Command {
	var secureBoot, name, policy, out string
	var replace, withoutModule bool
	c := &cobra.Command{
		Use:   "predict IMAGE [--secure-boot DIR] [--policy POLICY --name NAME --out FILE]",
		Short: "Compute the PCR values of an image from its files, and add them to a policy",
		Long: "Compute PCRs 4, 7, 11, 12, 13 and 14 of a machine that boots the image, from the\n" +
			"image's files alone. The image must hang together: its root file system must be the\n" +
			"one that its kernel's command line names.\n\n" +
			"PCR 7 is that of a machine without keys and with Secure Boot off. With --secure-boot\n" +
			"it is that of a machine with the keys in DIR: the EFI signature lists PK.esl, KEK.esl,\n" +
			"db.esl and dbx.esl. The image must be signed by a key of db.\n\n" +
			"With --policy the values are added to an unsigned policy, in its bank, as those of a\n" +
			"release. Nothing else changes: a new version of the policy is for you to set.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			p, err := predictImage(args[0], secureBoot, withoutModule)
			if err != nil {
				return err
			}
			if policy != "" {
				if p.Reference, err = referTo(p, policy, name, replace, out); err != nil {
					return err
				}
			}
			return a.Show(cmd, p, func(w io.Writer) {
				for _, bank := range slices.Sorted(maps.Keys(p.PCRs)) {
					rowsOfPCRs(w, bank+" ", p.PCRs[bank])
				}
				for _, m := range p.Measurements {
					cli.Row(w, m.Name, m.Digest)
				}
				if p.Reference != nil {
					cli.Row(w, "reference", p.Reference.Name)
				}
			})
		}),
	}
	c.Flags().StringVar(&secureBoot, "secure-boot", "", "folder with the keys of a machine that has Secure Boot on")
	c.Flags().StringVar(&policy, "policy", "", "unsigned policy to add the values to")
	c.Flags().StringVar(&name, "name", "", `whose values they are, such as "release 1.2.0"`)
	c.Flags().StringVar(&out, "out", "", "file to write the policy to, which must not exist")
	c.Flags().BoolVar(&withoutModule, "without-module", false, "take an image that has no PKCS#11 module yet: it boots, and stays locked")
	c.Flags().BoolVar(&replace, "replace", false, "replace the reference of that name")
	c.MarkFlagsRequiredTogether("policy", "name", "out")
	return c
}

// predictImage opens the image and computes its PCRs.
func predictImage(file, secureBoot string, withoutModule bool) (*prediction, error) {
	var keys *predict.SecureBoot
	if secureBoot != "" {
		var err error
		if keys, err = predict.ReadSecureBoot(secureBoot); err != nil {
			return nil, fmt.Errorf("--secure-boot: %w", err)
		}
	}
	image, err := predict.Open(file)
	if err != nil {
		return nil, err
	}
	defer image.Close()
	p := &prediction{CommandLine: strings.TrimRight(image.CommandLine(), "\x00\n")}
	if p.PCRs, err = image.PCRs(keys); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if p.Measurements, err = measurementsOf(image, withoutModule); err != nil {
		return nil, fmt.Errorf("%s: the root file system: %w", file, err)
	}
	for bank, values := range p.PCRs {
		if values[tpm.ApplicationPCR], err = tpm.Replay(bank, p.Measurements); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// measurementsOf gives what Holdfast will measure of itself, where it runs from
// that image. Without a module it measures what comes before, and stops there.
func measurementsOf(image *predict.Image, withoutModule bool) ([]tpm.Measurement, error) {
	root := image.Root()
	open := func(name string) (io.ReadCloser, error) {
		f, err := root.Open(strings.TrimPrefix(path.Clean(name), "/"))
		if err != nil {
			return nil, err // and no file that is nil and yet an io.ReadCloser
		}
		return f, nil
	}
	cfg, err := configOf(open)
	if err != nil {
		return nil, err
	}
	measured, err := parts.Of(cfg, imageProgram, open)
	if err != nil {
		return nil, err
	}
	var list []tpm.Measurement
	for _, part := range measured {
		digest, err := part.Digest()
		if stops, ok := errors.AsType[*fault.Fault](err); ok && withoutModule && stops.Code == fault.Measure {
			return list, nil // the boot ends there as well
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", part.Name, err)
		}
		list = append(list, tpm.Measurement{PCR: tpm.ApplicationPCR, Name: part.Name, Digest: digest})
	}
	return list, nil
}

// configOf reads the configuration, as serve will.
func configOf(open func(string) (io.ReadCloser, error)) (*config.Config, error) {
	f, err := open(imageConfig)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, cli.MaxInput+1))
	if err != nil {
		return nil, err
	}
	if len(text) > cli.MaxInput {
		return nil, fmt.Errorf("%s has more than %d bytes", imageConfig, cli.MaxInput)
	}
	cfg, _, err := config.Parse(imageConfig, text)
	var problems config.Problems
	if errors.As(err, &problems) && len(problems) > 1 {
		return nil, fmt.Errorf("%s, and %d more problems; see holdfast config check", problems[0], len(problems)-1)
	}
	return cfg, err
}

// referTo adds the prediction to the policy in the file, and writes the result to
// another.
func referTo(p *prediction, policyFile, name string, replace bool, out string) (*tpm.Reference, error) {
	policy, err := readUnsignedPolicy(policyFile)
	if err != nil {
		return nil, err
	}
	r, err := p.reference(name, policy)
	if err != nil {
		return nil, err
	}
	return r, writeReference(policy, *r, replace, out)
}

// reference gives the values of all PCRs that the policy requires, and of
// [tpm.ApplicationPCR].
func (p *prediction) reference(name string, policy *attest.Policy) (*tpm.Reference, error) {
	values := p.PCRs[policy.TPM.Bank]
	r := &tpm.Reference{Name: name, PCRs: map[int]tpm.Hex{}}
	for _, n := range append([]int{tpm.ApplicationPCR}, policy.TPM.RequiredPCRs...) {
		value, ok := values[n]
		if !ok {
			return nil, fmt.Errorf("the policy requires PCR %d, which the machine decides and not the image: it cannot be predicted; do not require it, or take it from evidence with policy reference", n)
		}
		r.PCRs[n] = value
	}
	return r, nil
}
