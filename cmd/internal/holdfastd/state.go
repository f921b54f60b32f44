package holdfastd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/appliance/approval"
	"holdfast/appliance/audit"
	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/keyring"
	"holdfast/appliance/sqlite"
	"holdfast/attest/device"
	"holdfast/attest/tpm/counter"
	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/coredump"
	"holdfast/cmd/internal/daemon"
	"holdfast/cmd/internal/modules"
	"holdfast/hsm"
)

func stateCommand(a *cli.Admin) *cobra.Command {
	return cli.Group("state", "Verify a copy of the stored state, or move it to a fleet and back", stateVerifyCommand(a), stateMoveCommand(a))
}

// copyFlags are those of state verify.
type copyFlags struct {
	config, pinFile        string
	withoutHSM, withoutTPM bool
}

func stateVerifyCommand(a *cli.Admin) *cobra.Command {
	var f copyFlags
	c := &cobra.Command{
		Use:   "verify COPY [--config FILE] [--pin-file FILE] [--without-hsm] [--without-tpm] < PIN",
		Short: "Verify a copy of the state's folder or database offline",
		Long: "Verify a copy of the state's folder, or of its database alone, offline: all rows against their manifests\n" +
			"and their own seals, and the newest state that it names against the anchors outside of the database,\n" +
			"which are this machine's TPM and the audit log in the copy. The HSM is the one that --config names. Its\n" +
			"PIN is read from standard input, or from a file that only its owner may read. Nothing is written to the\n" +
			"copy; COPY may be the folder of an appliance that runs.\n" +
			"It exits 0 if all is whole and the anchors agree, 1 if something does not match, 2 if there is no copy\n" +
			"to look at, and 3 if nothing is wrong that was seen, and not all could be looked at, as with --without-hsm.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			report, err := f.verify(cmd, args[0])
			if err != nil {
				return err
			}
			if err := a.Show(cmd, report, func(w io.Writer) { showCopy(w, report) }); err != nil {
				return err
			}
			switch report.Verdict {
			case appliance.CopyPass:
				return nil
			case appliance.CopyIncomplete:
				return cli.ErrIncomplete
			}
			return cli.ErrReported
		}),
	}
	c.Flags().StringVar(&f.config, "config", "", "configuration file (TOML), which names the HSM and the TPM")
	c.Flags().StringVar(&f.pinFile, "pin-file", "", "file with the HSM's PIN, instead of standard input")
	c.Flags().BoolVar(&f.withoutHSM, "without-hsm", false, "say what can be said without the HSM; nothing is authenticated then")
	c.Flags().BoolVar(&f.withoutTPM, "without-tpm", false, "do not compare this machine's TPM, as for a copy that is older on purpose")
	c.MarkFlagsMutuallyExclusive("pin-file", "without-hsm")
	c.MarkFlagsOneRequired("config", "without-hsm")
	return c
}

func (f *copyFlags) verify(cmd *cobra.Command, path string) (_ *appliance.CopyReport, err error) {
	ctx := cmd.Context()
	if err := coredump.Forbid(); err != nil {
		return nil, err
	}
	database, folder, err := stateFiles(path)
	if err != nil {
		return nil, err
	}
	cfg := &config.Config{}
	if f.config != "" {
		if cfg, _, err = config.Load(f.config); err != nil {
			return nil, err
		}
	}
	o := appliance.CopyOptions{}
	if !f.withoutHSM {
		token, err := f.openHSM(cmd, cfg)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, token.Close()) }()
		ring := keyring.New(token)
		defer ring.Lock()
		o.Ring = ring
	}
	closeTPM, err := f.openTPM(cfg.Attestation.TPM, &o)
	if err != nil {
		return nil, err
	}
	defer closeTPM()
	if log := filepath.Join(folder, "audit"); isFolder(log) {
		o.Heads = append(o.Heads, logOfCopy(log))
		o.ProveLog = func(head string) (since time.Time, err error) {
			h, err := audit.ParseHead(head)
			if err != nil {
				return since, err
			}
			return audit.ProveHead(log, h)
		}
	}
	var rows *sqlite.Offline
	o.Open = func(ctx context.Context) (appliance.OfflineRows, error) {
		opened, err := sqlite.OpenOffline(ctx, database)
		rows = opened
		return opened, err
	}
	defer func() {
		if rows != nil {
			err = errors.Join(err, rows.Close())
		}
	}()
	o.Others = func(ctx context.Context, f func(kind, id string, b appliance.Binding, seal []byte) error) error {
		return errors.Join(identity.EachSealed(ctx, rows.Everything(), f), approval.EachSealed(ctx, rows.Everything(), f))
	}
	return appliance.VerifyCopy(ctx, o)
}

// logOfCopy is the folder of an audit log: an anchor that is read and told nothing.
type logOfCopy string

// Name implements [appliance.HeadAnchor].
func (logOfCopy) Name() string { return "audit log" }

// Seen implements [appliance.HeadAnchor].
func (l logOfCopy) Seen(context.Context) (seen appliance.SeenHead, err error) {
	h, since, err := audit.NewestState(string(l))
	if err == nil && h.Sequence == 0 {
		err = fault.Errorf(fault.NotFound, "no checkpoint of the audit log names a state")
	}
	return appliance.SeenHead{Head: appliance.Head{Sequence: h.Sequence, Digest: h.Digest, At: h.At}, Since: since}, err
}

// Tell implements [appliance.HeadAnchor].
func (logOfCopy) Tell(appliance.Head) {}

// stateFiles gives the database of a copy, and the folder that it is in.
func stateFiles(path string) (database, folder string, err error) {
	database, folder = path, filepath.Dir(path)
	if isFolder(path) {
		database, folder = filepath.Join(path, "holdfast.db"), path
	}
	_, err = os.Stat(database)
	if errors.Is(err, fs.ErrNotExist) {
		// A log without its database is what is left of one.
		if _, noLog := os.Stat(database + "-wal"); noLog != nil {
			return "", "", cli.Unusable(fmt.Errorf("there is no database %s; name the folder of the state, or its database", database))
		}
		err = nil
	}
	return database, folder, err
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// openHSM opens the tokens that the configuration names, in which it makes no master key.
func (f *copyFlags) openHSM(cmd *cobra.Command, cfg *config.Config) (keyring.Tokens, error) {
	pin, err := readPIN(cmd, f.pinFile)
	if err != nil {
		return nil, err
	}
	defer clear(pin)
	token, _, err := keyring.Open(cmd.Context(), daemon.Tokens(cfg.HSM, modules.For(modules.Secrets(cfg)...), hsm.Config{PIN: pin, MasterKeyExists: true})...)
	return token, err
}

// openTPM has this machine's TPM compared, if it has one.
func (f *copyFlags) openTPM(path string, o *appliance.CopyOptions) (closed func(), err error) {
	none := func() {}
	if f.withoutTPM {
		o.NoAnchor = "--without-tpm was given"
		return none, nil
	}
	path = cmp.Or(path, device.TPM)
	opened, err := device.OpenTPM(path)
	if errors.Is(err, fs.ErrNotExist) {
		o.NoAnchor = "this machine has no TPM " + path
		return none, nil
	}
	if err != nil {
		return nil, err
	}
	anchor, err := counter.NewAnchor(opened)
	if err != nil {
		return nil, errors.Join(err, opened.Close())
	}
	o.Anchor = anchor
	return func() { _ = opened.Close() }, nil
}

func showCopy(w io.Writer, r *appliance.CopyReport) {
	cli.Row(w, "installation", cli.OrDash(r.Installation))
	if r.Schema > 0 {
		cli.Row(w, "schema", r.Schema)
	}
	if h := r.Head; h.Sequence > 0 {
		cli.Row(w, "state number", h.Sequence)
		cli.Row(w, "digest", h.Digest)
		cli.Row(w, "of", h.At.Format(time.RFC3339))
		cli.Row(w, "rows", r.Rows)
	}
	for _, s := range r.Scopes {
		name := "installation"
		if s.KeyStore != "" {
			name = "key store " + cmp.Or(s.Name, s.KeyStore)
		}
		sets := fmt.Sprintf("%d sets", s.Sets)
		if len(s.NotMatching) > 0 {
			sets += fmt.Sprintf(", of which %d do not match", len(s.NotMatching))
		}
		cli.Row(w, name, sets)
	}
	for _, d := range r.Damaged {
		cli.Row(w, "damaged", d)
	}
	if more := r.DamagedRows - len(r.Damaged); more > 0 {
		cli.Row(w, "damaged", fmt.Sprintf("%d more rows", more))
	}
	for _, x := range r.Anchors {
		since := ""
		if !x.Since.IsZero() {
			since = ", of " + x.Since.Format(time.RFC3339)
		}
		cli.Row(w, "anchor "+x.Name, x.Result+since+": "+x.Detail)
	}
	for _, n := range r.Notes {
		cli.Row(w, "note", n)
	}
	for _, n := range r.NotVerified {
		cli.Row(w, "not verified", n)
	}
	for _, f := range r.Findings {
		cli.Row(w, "wrong", string(f.Code)+": "+f.Message)
	}
	cli.Row(w, "verdict", map[appliance.CopyVerdict]string{appliance.CopyPass: "whole", appliance.CopyFail: "not whole", appliance.CopyIncomplete: "incomplete"}[r.Verdict])
}
