package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/attest/privatefile"
	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/restore"
	"holdfast/cmd/internal/terminal"
)

func backupCommand(a *admin) *cobra.Command {
	var out, approval string
	c := a.asking("backup --out FILE", "Write a backup of the running appliance", func(cmd *cobra.Command, _ []string) error {
		var r *appliance.BackupReport
		p := terminal.NewProgress(a.Notes(cmd), "making the backup", terminal.Octets)
		size, err := writeWhole(out, func(w io.Writer) (err error) {
			r, err = a.Backup(cmd.Context(), approval, p.Writer(w))
			return err
		})
		p.End()
		if err != nil {
			return err
		}
		err = a.Show(cmd, map[string]any{"backup": out, "bytes": size, "damaged": append([]appliance.DamagedRow{}, r.Damaged...), "damaged_rows": r.DamagedRows}, func(w io.Writer) {
			cli.Row(w, "backup", fmt.Sprintf("%s, %d bytes", out, size))
			restore.ShowDamaged(w, r)
		})
		if err == nil && r.DamagedRows > 0 {
			err = fault.Errorf(fault.Tampered, "the backup is whole, and can be restored; but %d rows in it do not match their seals, as in the appliance itself: find out who changed the database, and discard them", r.DamagedRows)
		}
		return err
	})
	c.Long = "Write a backup of the running appliance: all key stores, keys, credentials and grants, as of one\n" +
		"moment. It is encrypted, and can be opened only with the master key of the same HSM, which\n" +
		"must be backed up by the HSM's own means.\n\n" +
		"The appliance reads each backup once more and holds every row against its seal. If a row is\n" +
		"damaged, the backup is written all the same, each damaged row is named with the command that\n" +
		"discards it, and the exit code is 1."
	c.Flags().StringVar(&out, "out", "", "file to write, which must not exist")
	c.Flags().StringVar(&approval, "approval", "", "request by which another person has approved the backup, where it needs one")
	_ = c.MarkFlagRequired("out") // it exists: it was made above
	return c
}

// writeWhole writes a new file that only its owner may read: whole, durably, or
// not at all.
func writeWhole(path string, write func(io.Writer) error) (size int64, err error) {
	if err := checkNew(path); err != nil {
		return 0, err
	}
	err = privatefile.Replace(path, func(w io.Writer) error {
		counted := &counter{w: w}
		err := write(counted)
		size = counted.n
		return err
	})
	return size, err
}

// checkNew gives the error of a file to write that is there already.
func checkNew(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s exists already; choose another name", path)
	}
	return nil
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
