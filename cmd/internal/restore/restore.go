// Package restore is the command that restores a backup. Both programs have it: who
// restores may be at the machine, or elsewhere.
package restore

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/terminal"
	"holdfast/web/operation"
)

// Command makes the command restore.
func Command(a *cli.Admin) *cobra.Command {
	var verify, drill bool
	var reason string
	c := a.Asks(&cobra.Command{
		Use:   "restore FILE [--verify | --drill] [--reason TEXT]",
		Short: "Restore a backup into a fresh appliance, or prove that it could be",
		Long: "Restore a backup into a fresh appliance: one that has the same HSM and no key store yet. It serves, or\n" +
			"is locked by E_STATE_MISSING, which says that the HSM has traces of an installation.\n" +
			"The restored copy takes over: the HSM names it as the owner of the installation, and every other copy\n" +
			"destroys nothing in the HSM any more, and is locked when it starts next. With --drill it does not take\n" +
			"over: it serves for practice, and never changes anything in the HSM.\n" +
			"Before anything changes, all that is in the backup is opened, every version of every key.\n" +
			"With --verify that is all, and any appliance with the same HSM will do; the exit code is 1 if\n" +
			"a row is damaged. A restore takes damaged rows over as they are, out of service, and names them.\n" +
			"A key in the HSM that was destroyed since the backup is named, and does not stop the restore.\n\n" +
			"Users, credentials and grants come back as of the backup: what was revoked since then is valid\n" +
			"again. Pending deletions of keys are suspended until somebody cancels them or schedules them again.\n" +
			"API tokens, sessions, invitations and pending requests for approval are left out.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			size := int64(0)
			if info, err := f.Stat(); err == nil {
				size = info.Size()
			}
			what := "restoring the backup"
			if verify {
				what = "verifying the backup"
			}
			p := terminal.NewProgress(a.Notes(cmd), what, terminal.Octets)
			done, err := cli.Call(cmd.Context(), a, operation.Restore, operation.BackupUpload{Verify: verify, Drill: drill, Reason: reason, Backup: p.Reader(f, size)})
			p.End()
			if err != nil {
				return err
			}
			r := done.Out
			err = a.Show(cmd, done, func(w io.Writer) { showReport(w, r) })
			if err == nil && verify && r.DamagedRows > 0 {
				err = fmt.Errorf("the backup can be restored; but %d rows in it do not match their seals, and would be out of service", r.DamagedRows)
			}
			return err
		}),
	})
	c.Flags().BoolVar(&verify, "verify", false, "open everything in the backup, and change nothing")
	c.Flags().BoolVar(&drill, "drill", false, "restore for practice: the copy never changes anything in the HSM")
	c.Flags().StringVar(&reason, "reason", "", "why; the audit log has it")
	c.MarkFlagsMutuallyExclusive("verify", "drill")
	return c
}

func showReport(w io.Writer, r *appliance.BackupReport) {
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
	if r.As.Ownership == appliance.OwnershipDrill {
		result = "restored as a drill: it changes nothing in the HSM"
	}
	cli.Row(w, "result", result)
	cli.Row(w, "of", cli.When(r.Created))
	cli.Row(w, "key stores", r.KeyStores)
	cli.Row(w, "credentials", r.Credentials)
	cli.Row(w, "grants", r.Grants)
	cli.Row(w, "keys", fmt.Sprintf("%d, with %d versions, of which %d are in the HSM", r.Keys, r.Versions, r.InToken))
	ShowDamaged(w, r)
	for _, g := range r.Gone {
		cli.Row(w, "gone", fmt.Sprintf("key %s of key store %s, version %d: the HSM has no key object for it any more", g.KeyID, g.KeyStore, g.Version))
	}
	if r.PendingDeletion > 0 {
		cli.Row(w, "pending deletion", fmt.Sprintf("%d of the keys; a restore suspends the deletion: cancel it, or schedule it again (holdfast key list KEYSTORE --standing %s)",
			r.PendingDeletion, appliance.StandingDeletionSuspended))
	}
	if r.Restored {
		cli.Row(w, "look through", fmt.Sprintf("users, credentials and grants are those of %s: what was revoked since then is valid again", cli.When(r.Created)))
		cli.Row(w, "left out", "API tokens, sessions, invitations and pending requests for approval: make new ones")
	}
}

// ShowDamaged lists damaged rows, and how to discard each.
func ShowDamaged(w io.Writer, r *appliance.BackupReport) {
	for _, d := range r.Damaged {
		cli.Row(w, "damaged", fmt.Sprintf("%s; to discard it: %s", d, d.Remedy()))
	}
	if more := r.DamagedRows - len(r.Damaged); more > 0 {
		cli.Row(w, "damaged", fmt.Sprintf("%d more rows, which the appliance's log names", more))
	}
}
