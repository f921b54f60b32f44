package holdfastd

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"holdfast/appliance/fault"
	"holdfast/attest/device"
	"holdfast/attest/tpm"
	"holdfast/cmd/internal/cli"
)

func capCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "cap [--tpm PATH]",
		Short: "Cap this machine's TPM: it releases nothing until the machine is restarted",
		Long: "Extend PCR 14 of this machine's TPM, so that it releases neither the PIN nor the state volume's\n" +
			"key until the machine is restarted. holdfastd serve does this by itself. The image calls it when\n" +
			"holdfastd serve has ended, also when it was killed before it could. Evidence of an appliance that\n" +
			"still runs is refused afterwards.",
		Args: cobra.NoArgs,
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			opened, err := device.OpenTPM(path)
			if errors.Is(err, fs.ErrNotExist) {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "there is no TPM %s to cap\n", path)
				return err
			}
			if err == nil {
				_, err = opened.Cap()
				err = errors.Join(err, opened.Close())
			}
			if err != nil {
				return fmt.Errorf("%s: the TPM is not capped, so it may release the PIN to another process; restart the machine: %w", fault.CapFailed, err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "PCR %d is capped until the machine is restarted\n", tpm.ApplicationPCR)
			return err
		}),
	}
	c.Flags().StringVar(&path, "tpm", device.TPM, "the TPM")
	return c
}
