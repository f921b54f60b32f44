package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"holdfast/appliance/fault"
	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/terminal"
	"holdfast/web/operation"
)

// loadStep is how many things one request makes. After each it is said how far it is, and others
// can change something.
const loadStep = 1000

// load is a command that makes many things of a file.
type load struct {
	what   string // such as "grants"
	check  *operation.Operation[operation.FileCheck, operation.FileReport]
	create *operation.Operation[operation.FileImport, operation.FileResult]
	long   string
	dry    bool
}

func keyLoadCommand(a *admin) *cobra.Command {
	return (&load{what: "keys", check: operation.CheckKeyFile, create: operation.CreateKeys,
		long: "CSV with the columns id, usage (encrypt decrypt, encrypt, decrypt or none) and custody\n" +
			"(cached or hsm), or JSON lines with the members of key create in the API. Each key is\n" +
			"generated: a file has no key material. A key that is there with the same usage and\n" +
			"custody is left as it is."}).command(a)
}

func grantLoadCommand(a *admin) *cobra.Command {
	return (&load{what: "grants", check: operation.CheckGrantFile, create: operation.CreateGrants,
		long: "CSV with the columns principal and operations, and if needed key_id, effect, not_after,\n" +
			"force, calling_accounts, via_services, source_vpcs, source_vpces, kms_key_arns,\n" +
			"kms_key_regions, kms_key_accounts and kms_operations; or JSON lines with the members of\n" +
			"createGrant in the API. Spaces separate several values in a column. A grant that says just\n" +
			"what one says that is there is not made again."}).command(a)
}

func (l *load) command(a *admin) *cobra.Command {
	c := a.asking("load KEYSTORE FILE", "Make the "+l.what+" of a file that are not there yet", func(cmd *cobra.Command, args []string) error {
		return l.run(a, cmd, args[0], args[1])
	})
	c.Long = "Make the " + l.what + " of a file that are not there yet:\n" + l.long + "\n\n" +
		"The whole file is checked first. If a line is wrong, each wrong line is named and nothing\n" +
		"is made. If it is interrupted, give the same file again: it goes on where it stopped."
	c.Flags().BoolVar(&l.dry, "dry-run", false, "check the file, say what it would do, and make nothing")
	return c
}

// readFile reads a file of things to make.
func readFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, operation.MaxFile+1))
	if err == nil && len(text) > operation.MaxFile {
		err = fault.Errorf(fault.Invalid, "%s is longer than %d bytes: split it", name, operation.MaxFile)
	}
	return string(text), err
}

func (l *load) run(a *admin, cmd *cobra.Command, keyStore, name string) error {
	file, err := readFile(name)
	if err != nil {
		return err
	}
	ks := operation.KeyStoreName{KeyStore: keyStore}
	checked, err := cli.Call(cmd.Context(), &a.Admin, l.check, operation.FileCheck{KeyStoreName: ks, File: file})
	if err != nil {
		return err
	}
	report := checked.Out
	if wrong := len(report.Problems) + report.More; wrong > 0 {
		if err := a.Show(cmd, report, func(w io.Writer) { showProblems(w, report) }); err != nil {
			return err
		}
		return fault.Errorf(fault.Invalid, "%s has %d problems, and nothing was made: mend the lines, and give it again", name, wrong)
	}
	if l.dry {
		return a.Show(cmd, report, func(w io.Writer) {
			cli.Row(w, "rows", report.Rows)
			cli.Row(w, "would be made", report.New)
			cli.Row(w, "there already", report.There)
			cli.Row(w, "sha256", report.SHA256)
		})
	}
	in := operation.FileImport{KeyStoreName: ks, File: file, Rows: report.Rows, SHA256: report.SHA256, Most: loadStep}
	if report.New > 0 {
		if err := a.confirm(cmd, l.create.ToConfirm(in)); err != nil {
			return err
		}
	}
	return l.steps(a, cmd, in, report)
}

// steps has the things made, step by step.
func (l *load) steps(a *admin, cmd *cobra.Command, in operation.FileImport, report operation.FileReport) error {
	made := 0
	p := terminal.NewProgress(a.Notes(cmd), "making "+l.what, terminal.Items)
	defer p.End()
	for {
		p.At(int64(made), int64(report.New))
		done, err := cli.Call(cmd.Context(), &a.Admin, l.create, in)
		if err != nil {
			p.End()
			if made > 0 {
				return fault.Wrapf(fault.CodeOf(err), err, "%d of %d %s were made; give the same file again to go on", made, report.New, l.what)
			}
			return err
		}
		made += done.Out.Made
		if stopped := done.Out.Stopped; stopped != nil {
			p.End()
			return fault.Errorf(stopped.Code, "%d of %d %s were made, and then it stopped: %s. Give the same file again to go on", made, report.New, l.what, stopped.Message)
		}
		if done.Out.Left > 0 && done.Out.Made > 0 {
			continue
		}
		p.End()
		result := operation.FileResult{Rows: report.Rows, SHA256: report.SHA256, Made: made, There: report.There, Left: done.Out.Left}
		done.Out = result
		return a.Show(cmd, done, func(w io.Writer) {
			cli.Row(w, "made", result.Made)
			cli.Row(w, "there already", result.There)
			if result.Left > 0 {
				cli.Row(w, "left", fmt.Sprintf("%d: give the same file again", result.Left))
			}
			if effect := done.Effect.String(); effect != "" {
				cli.Row(w, effect)
			}
		})
	}
}

func showProblems(w io.Writer, r operation.FileReport) {
	cli.Row(w, "LINE", "COLUMN", "PROBLEM")
	for _, p := range r.Problems {
		cli.Row(w, p.Line, cli.OrDash(p.Column), p.Problem)
	}
	if r.More > 0 {
		cli.Row(w, fmt.Sprintf("and %d more", r.More))
	}
}
