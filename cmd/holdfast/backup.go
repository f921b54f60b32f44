package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"holdfast/appliance"
)

func backupCommand(a *admin) *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "backup --out FILE",
		Short: "Write a backup of the running appliance",
		Long: "Write a backup of the running appliance: all key stores, keys, credentials and grants, as of one\n" +
			"moment. It is encrypted, and can be opened only with the master key of the same HSM, which\n" +
			"must be backed up by the HSM's own means.\n\n" +
			"The appliance reads each backup once more and holds every row against its seal. If a row is\n" +
			"damaged, the backup is written all the same, each damaged row is named with the command that\n" +
			"discards it, and the exit code is 1.",
		Args: cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			var r *appliance.BackupReport
			size, err := writeWhole(out, func(w io.Writer) (err error) {
				r, err = a.client().Backup(cmd.Context(), w)
				return err
			})
			if err != nil {
				return err
			}
			err = a.show(cmd, map[string]any{"backup": out, "bytes": size, "damaged": append([]appliance.DamagedRow{}, r.Damaged...), "damaged_rows": r.DamagedRows}, func(w io.Writer) {
				row(w, "backup", fmt.Sprintf("%s, %d bytes", out, size))
				showDamaged(w, r)
			})
			if err == nil && r.DamagedRows > 0 {
				err = fmt.Errorf("the backup is whole, and can be restored; but %d rows in it do not match their seals, as in the appliance itself: find out who changed the database, and discard them", r.DamagedRows)
			}
			return err
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
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	err = write(f)
	info, statErr := f.Stat()
	if err = errors.Join(err, statErr, f.Sync(), f.Close()); err != nil {
		return 0, err
	}
	return info.Size(), os.Rename(f.Name(), path)
}

func restoreCommand(a *admin) *cobra.Command {
	var verify bool
	c := &cobra.Command{
		Use:   "restore FILE [--verify]",
		Short: "Restore a backup into a fresh appliance, or prove that it could be",
		Long: "Restore a backup into a fresh appliance: one that serves, has the same HSM, and has no key store yet.\n" +
			"Before anything changes, all that is in the backup is opened, every version of every key.\n" +
			"With --verify that is all, and any appliance with the same HSM will do; the exit code is 1 if\n" +
			"a row is damaged. A restore takes damaged rows over as they are, out of service, and names them.\n" +
			"A key in the HSM that was destroyed since the backup is named, and does not stop the restore.\n\n" +
			"Users, credentials and grants come back as of the backup: what was revoked since then is valid\n" +
			"again. Pending deletions of keys are suspended until somebody cancels them or schedules them again.\n" +
			"API tokens, sessions, invitations and pending requests for approval are left out.",
		Args: cobra.ExactArgs(1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			route := "restore"
			if verify {
				route = "restore?verify=true"
			}
			var r appliance.BackupReport
			if err := a.client().Upload(cmd.Context(), route, f, &r); err != nil {
				return err
			}
			err = a.show(cmd, r, func(w io.Writer) { showBackup(w, &r) })
			if err == nil && verify && r.DamagedRows > 0 {
				err = fmt.Errorf("the backup can be restored; but %d rows in it do not match their seals, and would be out of service", r.DamagedRows)
			}
			return err
		}),
	}
	c.Flags().BoolVar(&verify, "verify", false, "open everything in the backup, and change nothing")
	return c
}

func showBackup(w io.Writer, r *appliance.BackupReport) {
	result := "verified: everything opens"
	if len(r.Gone) > 0 {
		result = "verified: everything opens but what is gone"
	}
	if r.DamagedRows > 0 {
		result = fmt.Sprintf("verified: all but %d rows match their seals", r.DamagedRows)
	}
	if r.Restored {
		result = "restored"
	}
	row(w, "result", result)
	row(w, "of", when(r.Created))
	row(w, "key stores", r.KeyStores)
	row(w, "credentials", r.Credentials)
	row(w, "grants", r.Grants)
	row(w, "keys", fmt.Sprintf("%d, with %d versions, of which %d are in the HSM", r.Keys, r.Versions, r.InToken))
	showDamaged(w, r)
	for _, g := range r.Gone {
		row(w, "gone", fmt.Sprintf("key %s of key store %s, version %d: the HSM has no key object for it any more", g.KeyID, g.KeyStore, g.Version))
	}
	if r.PendingDeletion > 0 {
		row(w, "pending deletion", fmt.Sprintf("%d of the keys; a restore suspends the deletion: cancel it, or schedule it again (holdfast key list KEYSTORE --state %s)",
			r.PendingDeletion, appliance.KeyDeletionSuspended))
	}
	if r.Restored {
		row(w, "look through", fmt.Sprintf("users, credentials and grants are those of %s: what was revoked since then is valid again", when(r.Created)))
		row(w, "left out", "API tokens, sessions, invitations and pending requests for approval: make new ones")
	}
}
