package holdfastd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/spf13/cobra"

	"holdfast/appliance/fault"
	"holdfast/attest/device"
	"holdfast/attest/tpm"
	"holdfast/cmd/internal/cli"
)

func capCommand(a *cli.Admin) *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "cap [--tpm PATH]",
		Short: "Cap this machine's TPM: it releases nothing until the machine is restarted",
		Long: "Extend PCR 14 of this machine's TPM, so that it releases neither the PIN nor the state volume's\n" +
			"key until the machine is restarted. holdfastd serve does this by itself. The image calls it when\n" +
			"holdfastd serve has ended, also when it was killed before it could. Evidence of an appliance that\n" +
			"still runs is refused afterwards.",
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			opened, err := device.OpenTPM(path)
			if errors.Is(err, fs.ErrNotExist) {
				return a.Show(cmd, map[string]bool{"capped": false}, func(w io.Writer) { cli.Row(w, "there is no TPM "+path+" to cap") })
			}
			if err == nil {
				_, err = opened.Cap()
				err = errors.Join(err, opened.Close())
			}
			if err != nil {
				return fmt.Errorf("%s: the TPM is not capped, so it may release the PIN to another process; restart the machine: %w", fault.CapFailed, err)
			}
			return a.Show(cmd, map[string]bool{"capped": true}, func(w io.Writer) {
				cli.Row(w, fmt.Sprintf("PCR %d is capped until the machine is restarted", tpm.ApplicationPCR))
			})
		}),
	}
	c.Flags().StringVar(&path, "tpm", device.TPM, "the TPM")
	return c
}
