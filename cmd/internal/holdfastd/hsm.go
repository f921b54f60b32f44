package holdfastd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/appliance/config"
	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/coredump"
	"holdfast/cmd/internal/modules"
	"holdfast/hsm"
	"holdfast/hsm/dialect"
	"holdfast/hsm/wire"
)

func hsmCommand(a *cli.Admin) *cobra.Command {
	return cli.Group("hsm", "Find out what an HSM can do", hsmProbeCommand(a))
}

// probeFlags are those of hsm probe.
type probeFlags struct {
	module, label, serial, pinFile string
	write                          []string
	member                         bool
}

func hsmProbeCommand(a *cli.Admin) *cobra.Command {
	var f probeFlags
	c := &cobra.Command{
		Use:   "probe --module FILE (--token-label LABEL | --token-serial NUMBER) [--hsm-write PATH] [--member] [--pin-file FILE] < PIN",
		Short: "Try what an HSM's token can do, and print the settings that fit",
		Long: "Open a token in module processes of its own, try there what Holdfast needs, and print what was found\n" +
			"with the section [hsm] of the configuration that fits; or why the token cannot serve, and what it lacks.\n" +
			"It makes objects whose labels begin with hf-trial-, and destroys them, also if it fails or is\n" +
			"interrupted. It uses no other object of the token, and makes no master key.\n" +
			"The PIN is read from standard input, or from a file that only its owner may read. It is tried once; after the\n" +
			"token has taken it, it is used again in other processes.\n" +
			"It exits 0 if the token can serve, 1 if it cannot, and 2 if the call is unusable.",
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			tried, err := f.try(a, cmd)
			if err != nil {
				return err
			}
			r := probeReport{tried, f.settings(tried)}
			if err := a.Show(cmd, r, func(w io.Writer) { r.show(w) }); err != nil {
				return err
			}
			if !tried.Serves() {
				return cli.ErrReported
			}
			return nil
		}),
	}
	c.Flags().StringVar(&f.module, "module", "", "the HSM's PKCS#11 library")
	c.Flags().StringSliceVar(&f.write, "hsm-write", nil, "files and folders that the library may change, as hsm.process.write names them")
	c.Flags().BoolVar(&f.member, "member", false, "print the settings of one more token, [[hsm.members]], instead of [hsm]")
	c.Flags().StringVar(&f.label, "token-label", "", "label of the token")
	c.Flags().StringVar(&f.serial, "token-serial", "", "serial number of the token, if two have the label")
	c.Flags().StringVar(&f.pinFile, "pin-file", "", "file with the HSM's PIN, instead of standard input")
	_ = c.MarkFlagRequired("module") // it exists: it was made above
	c.MarkFlagsOneRequired("token-label", "token-serial")
	c.MarkFlagsMutuallyExclusive("token-label", "token-serial")
	return c
}

func (f *probeFlags) try(a *cli.Admin, cmd *cobra.Command) (*hsm.Tried, error) {
	if err := coredump.Forbid(); err != nil {
		return nil, err
	}
	if info, err := os.Stat(f.module); errors.Is(err, fs.ErrNotExist) || err == nil && info.IsDir() {
		return nil, cli.Unusable(fmt.Errorf("--module: there is no file %s", f.module))
	}
	pin, err := readPIN(cmd, f.pinFile)
	if err != nil {
		return nil, err
	}
	defer clear(pin)
	cfg := hsm.Config{Module: f.module, TokenLabel: f.label, TokenSerial: f.serial, PIN: pin, Launcher: modules.For("/etc/holdfast")(1, config.Member{Module: f.module, Process: config.Process{Write: f.write}})}
	return hsm.Try(cmd.Context(), cfg, func(*hsm.Tried) {
		cli.Row(a.Notes(cmd), "the token is there; the PIN is tried now, once")
	})
}

// readPIN reads the PIN from the file, or from standard input if none is named.
func readPIN(cmd *cobra.Command, file string) (pin []byte, err error) {
	if file != "" {
		pin, err = cli.ReadSecretFile("--pin-file", file)
	} else {
		pin, err = cli.ReadSecret("the PIN from standard input", cmd.InOrStdin())
	}
	if err != nil {
		return nil, cli.Unusable(err)
	}
	return pin, nil
}

// probeReport is what hsm probe prints.
type probeReport struct {
	*hsm.Tried
	// Settings is the section [hsm] or [[hsm.members]] that fits; empty if the token cannot serve.
	Settings string `json:"settings,omitempty"`
}

// settings are the lines of the configuration that fit.
func (f *probeFlags) settings(t *hsm.Tried) string {
	if !t.Serves() {
		return ""
	}
	var b strings.Builder
	line := func(format string, values ...any) { fmt.Fprintf(&b, format+"\n", values...) }
	table, process := "[hsm]", "[hsm.process]"
	if f.member {
		table, process = "[[hsm.members]]", "[hsm.members.process]"
	}
	line("%s\nmodule = %q", table, f.module)
	if f.label != "" {
		line("token_label = %q", f.label)
	} else {
		line("token_serial = %q", f.serial)
	}
	// A member has what [hsm] says where it says nothing itself.
	if t.Dialect != "" && (t.Dialect != dialect.Standard || f.member) {
		line("dialect = %q", t.Dialect)
	}
	if n := t.Sessions; n < hsm.DefaultMaxSessions || f.member {
		line("max_sessions = %d", n)
	}
	switch {
	case t.NoDataObjects != "" && f.member:
		line("# set no_installation_object = true in [hsm]: then no key in the HSMs is ever destroyed; not with state.database")
	case t.NoDataObjects != "":
		line("no_installation_object = true # then no key in the HSM is ever destroyed; not with state.database")
	}
	if len(f.write) > 0 {
		var quoted []string
		for _, path := range f.write {
			quoted = append(quoted, fmt.Sprintf("%q", path))
		}
		line("\n%s\nwrite = [%s]", process, strings.Join(quoted, ", "))
	}
	return b.String()
}

func (r probeReport) show(w io.Writer) {
	if i := r.Token; i != nil {
		cli.Row(w, "token", fmt.Sprintf("%q, serial number %s", i.Label, cli.OrDash(i.Serial)))
		cli.Row(w, "made by", fmt.Sprintf("%s, model %s, hardware %s, firmware %s", cli.OrDash(i.Manufacturer), cli.OrDash(i.Model), i.Hardware, i.Firmware))
		l := r.Library
		cli.Row(w, "library", fmt.Sprintf("%s of %s, version %s, PKCS#11 %s", cli.OrDash(l.Description), cli.OrDash(l.Manufacturer), l.Version, l.Cryptoki))
		for _, m := range r.Mechanisms {
			uses := strings.Join(m.Uses, ", ")
			if uses == "" {
				uses = "missing"
			}
			cli.Row(w, m.Name, uses)
		}
		told := "no limit"
		if i.FreeSessions >= 0 {
			told = fmt.Sprintf("%d free", i.FreeSessions)
		}
		cli.Row(w, "sessions it says", told)
	}
	if r.Sessions > 0 {
		r.showTrials(w)
	}
	if r.Left != "" {
		cli.Row(w, "left in the token", "objects whose label begins with "+r.Left+": destroy them with the vendor's tool")
	}
	if !r.Serves() {
		cli.Row(w, "verdict", "it cannot serve: "+r.CannotServe)
		return
	}
	custody := "custody cached and hsm"
	if r.NoCustodyHSM != "" {
		custody = "custody cached alone"
	}
	cli.Row(w, "verdict", "it can serve keys of "+custody)
	fmt.Fprintln(w)
	for l := range strings.Lines(r.Settings) {
		cli.Row(w, strings.TrimSuffix(l, "\n"))
	}
}

// showTrials shows what was tried after the login.
func (r probeReport) showTrials(w io.Writer) {
	if r.SessionsEnd != "" {
		cli.Row(w, "sessions opened", fmt.Sprintf("%d; then %s", r.Sessions, r.SessionsEnd))
	} else {
		cli.Row(w, "sessions opened", fmt.Sprintf("%d; more were not tried", r.Sessions))
	}
	for _, d := range r.Dialects {
		works := "works"
		if d.Error != "" {
			works = d.Error
		} else if len(r.Same) > 0 {
			works += "; the same as " + strings.Join(r.Same, ", ")
		}
		cli.Row(w, "dialect "+d.Name, works)
	}
	if r.Wrapping != "" {
		cli.Row(w, "key wrapping", "by "+r.Wrapping+", in the place of AES-GCM")
	}
	if len(r.Times) == 0 {
		return // it did not come so far
	}
	custody := "yes"
	if r.NoCustodyHSM != "" {
		custody = "no: " + r.NoCustodyHSM
	}
	cli.Row(w, "custody hsm", custody)
	for _, row := range []struct{ what, no, yes string }{
		{"CKA_ID", r.NoLongID, fmt.Sprintf("%d bytes", wire.LongID)},
		{"data objects", r.NoDataObjects, "yes"},
		{"a second process", r.OneProcess, "has sessions at the same time"},
		{"crypto11", r.NotForeign, "uses a key of Holdfast, and Holdfast decrypts what it makes"},
	} {
		if row.no != "" {
			row.yes = "no: " + row.no
		}
		cli.Row(w, row.what, row.yes)
	}
	for _, t := range r.Times {
		cli.Row(w, "time of "+t.Operation, (time.Duration(t.Microseconds) * time.Microsecond).String())
	}
}
