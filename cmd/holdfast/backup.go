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
			"must be backed up by the HSM's own means.",
		Args: cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			size, err := writeWhole(out, func(w io.Writer) error { return a.client().Download(cmd.Context(), "backup", w) })
			if err != nil {
				return err
			}
			return a.show(cmd, map[string]any{"backup": out, "bytes": size}, func(w io.Writer) { row(w, "backup", fmt.Sprintf("%s, %d bytes", out, size)) })
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
			"With --verify that is all, and any appliance with the same HSM will do.\n" +
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
			return a.show(cmd, r, func(w io.Writer) { showBackup(w, &r) })
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
	if r.Restored {
		result = "restored"
	}
	row(w, "result", result)
	row(w, "of", when(r.Created))
	row(w, "key stores", r.KeyStores)
	row(w, "credentials", r.Credentials)
	row(w, "grants", r.Grants)
	row(w, "keys", fmt.Sprintf("%d, with %d versions, of which %d are in the HSM", r.Keys, r.Versions, r.InToken))
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
