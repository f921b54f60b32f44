package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"holdfast/attest/privatefile"
	"holdfast/cmd/internal/cli"
)

func backupCommand(a *admin) *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "backup --out FILE",
		Short: "Write a backup of the running appliance",
		Long: "Write a backup of the running appliance: all key stores, keys, credentials and grants, as of one\n" +
			"moment. It is encrypted, and can be opened only with the master key of the same HSM, which\n" +
			"must be backed up by the HSM's own means.",
		Args: cobra.NoArgs,
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			size, err := writeWhole(out, func(w io.Writer) error { return a.Client().Download(cmd.Context(), "backup", w) })
			if err != nil {
				return err
			}
			return a.Show(cmd, map[string]any{"backup": out, "bytes": size}, func(w io.Writer) { cli.Row(w, "backup", fmt.Sprintf("%s, %d bytes", out, size)) })
		}),
	}
	c.Flags().StringVar(&out, "out", "", "file to write, which must not exist")
	_ = c.MarkFlagRequired("out") // it exists: it was made above
	return c
}

// writeWhole writes a new file that only its owner may read: whole, durably, or
// not at all.
func writeWhole(path string, write func(io.Writer) error) (size int64, err error) {
	if _, err := os.Lstat(path); err == nil {
		return 0, fmt.Errorf("%s exists already; choose another name", path)
	}
	err = privatefile.Replace(path, func(w io.Writer) error {
		counted := &counter{w: w}
		err := write(counted)
		size = counted.n
		return err
	})
	return size, err
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
