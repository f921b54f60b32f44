package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"

	"holdfast/appliance/config"
	"holdfast/appliance/notice/webhook"
	"holdfast/attest"
	"holdfast/attest/ask"
	"holdfast/attest/watch"
	"holdfast/cmd/internal/cli"
)

// watchConfig is the configuration of holdfast watch. Paths are relative to its folder.
type watchConfig struct {
	// State is the folder of what was seen.
	State string `toml:"state"`
	// Every is the time between two looks, UnreachableAfter how long a machine may give no
	// evidence.
	Every            config.Duration `toml:"every"`
	UnreachableAfter config.Duration `toml:"unreachable_after"`
	watchPolicy
	Webhook  watchWebhook   `toml:"webhook"`
	Machines []watchMachine `toml:"machine"`
}

// watchPolicy is how machines are judged; each may have its own.
type watchPolicy struct {
	Policy    string `toml:"policy"`
	PolicyKey string `toml:"policy_key"`
	CA        string `toml:"ca"`
	// CRL are lists of revocations, TCB a TCB recovery file of the policy's signer. Both are
	// read again at each look.
	CRL []string `toml:"crl"`
	TCB string   `toml:"tcb"`
}

func (p *watchPolicy) paths() []*string {
	paths := []*string{&p.Policy, &p.PolicyKey, &p.CA, &p.TCB}
	for i := range p.CRL {
		paths = append(paths, &p.CRL[i])
	}
	return paths
}

func (p *watchPolicy) endorsements() endorsementFiles {
	return endorsementFiles{p.CRL, p.TCB, p.PolicyKey}
}

type watchMachine struct {
	Name string `toml:"name"`
	URL  string `toml:"url"`
	watchPolicy
}

type watchWebhook struct {
	URL        string `toml:"url"`
	SecretFile string `toml:"secret_file"`
	CA         string `toml:"ca"`
}

// The bounds of the configuration.
const (
	leastEvery  = 10 * time.Second
	mostEvery   = 7 * 24 * time.Hour
	mostWatched = 1000
	tellTime    = 20 * time.Second
)

var machineName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func watchCommand(a *admin) *cobra.Command {
	var file string
	var once bool
	c := &cobra.Command{
		Use:   "watch --config FILE [--once]",
		Short: "Ask machines for evidence again and again, and say what has changed",
		Long: "Ask machines for evidence again and again, verify it, and say what has changed: the verdict,\n" +
			"the release, the TLS key, the instance, the state's number that goes back, the launch file,\n" +
			"the policies, the software's version; and that a machine gives no evidence for too long.\n" +
			"What a machine showed when it passed first is known; `holdfast watch accept` takes a change\n" +
			"as known. Each look is one line of JSON; alarms are posted to the webhook as well.\n" +
			"With --once it looks once, and exits 0 if all pass unchanged, 1 if evidence fails or something\n" +
			"has changed, 2 if the call or its files are unusable, and 3 if something could not be looked at.",
		RunE: cli.Does(func(cmd *cobra.Command, _ []string) error {
			w, err := a.watcher(cmd, file)
			if err != nil {
				return cli.Unusable(err)
			}
			if !once {
				return w.Run(cmd.Context())
			}
			return a.lookOnce(cmd, w)
		}),
	}
	c.Flags().StringVar(&file, "config", "", "file that says which machines to watch, and how (TOML); see docs/operations.md")
	c.Flags().BoolVar(&once, "once", false, "look once, for cron and monitoring")
	_ = c.MarkFlagRequired("config") // it exists: it was made above
	c.AddCommand(watchAcceptCommand(a))
	return c
}

func (a *admin) lookOnce(cmd *cobra.Command, w *watch.Watcher) error {
	worst, err := w.Once(cmd.Context())
	switch {
	case err != nil:
		return cli.Unusable(err)
	case cmd.Context().Err() != nil:
		return errors.New("it was interrupted before all machines were looked at")
	case worst == watch.Alarming:
		return cli.ErrReported
	case worst == watch.Incomplete:
		return cli.ErrIncomplete
	}
	return nil
}

func watchAcceptCommand(a *admin) *cobra.Command {
	var file, by, reason, digest string
	c := &cobra.Command{
		Use:   "accept MACHINE --config FILE --reason TEXT [--by NAME] [--seen DIGEST]",
		Short: "Take what was seen last of a machine as known",
		Long: "Take what was seen last of a machine as known, so that the watch no longer alarms because of\n" +
			"it: after an update, a new policy, a new machine. Who accepted what, and why, stays in\n" +
			"accepted.json of the state's folder. Evidence that fails is never accepted.",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			cfg, err := readWatchConfig(file)
			if err != nil {
				return cli.Unusable(err)
			}
			store, err := watch.NewStore(cfg.State)
			if err != nil {
				return cli.Unusable(fmt.Errorf("%s: state: %w", file, err))
			}
			if by == "" {
				me, err := user.Current()
				if err != nil {
					return fmt.Errorf("who accepts is not known: give --by")
				}
				by = me.Username
			}
			accepted, changes, err := store.Accept(args[0], by, reason, digest, time.Now())
			if err != nil {
				return err
			}
			return a.Show(cmd, map[string]any{"accepted": accepted, "changes": append([]watch.Change{}, changes...)}, func(w io.Writer) {
				cli.Row(w, "accepted", accepted.Machine, "by "+accepted.By)
				for _, c := range changes {
					cli.Row(w, c.What, c.Text)
				}
			})
		}),
	}
	f := c.Flags()
	f.StringVar(&file, "config", "", "the file that the watch has its configuration from")
	f.StringVar(&by, "by", "", "who accepts it (default: the user who calls)")
	f.StringVar(&reason, "reason", "", "why it is good, for the record")
	f.StringVar(&digest, "seen", "", "digest of what you accept, as seen_digest of the watch's line has it; refused if the newest is another")
	for _, name := range []string{"config", "reason"} {
		_ = c.MarkFlagRequired(name) // it exists: it was made above
	}
	return c
}

// readWatchConfig reads the configuration, and says all that is wrong with it at once.
func readWatchConfig(file string) (*watchConfig, error) {
	text, err := cli.ReadInput(file)
	if err != nil {
		return nil, err
	}
	cfg := &watchConfig{Every: config.Duration(10 * time.Minute), UnreachableAfter: config.Duration(30 * time.Minute)}
	if err := toml.NewDecoder(strings.NewReader(string(text))).DisallowUnknownFields().Decode(cfg); err != nil {
		return nil, inTOML(file, err)
	}
	var wrong []string
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if cfg.State == "" {
		bad("state is missing: name a folder that is only yours")
	}
	if every := time.Duration(cfg.Every); every < leastEvery || every > mostEvery {
		bad("every: use %s to %s", leastEvery, mostEvery)
	}
	if after := time.Duration(cfg.UnreachableAfter); after < 0 || after > mostEvery {
		bad("unreachable_after: use 0s to %s", mostEvery)
	}
	if n := len(cfg.Machines); n == 0 || n > mostWatched {
		bad("name 1 to %d machines, each as a [[machine]] with name and url", mostWatched)
	}
	names := map[string]bool{}
	for i, m := range cfg.Machines {
		if !machineName.MatchString(m.Name) {
			bad("machine %d: name %.80q: use up to 64 letters, digits, dots, dashes and underscores", i+1, m.Name)
		}
		if names[m.Name] {
			bad("machine %d: the name %.80q is there twice", i+1, m.Name)
		}
		names[m.Name] = true
		if _, err := ask.ParseAddress(m.URL); err != nil {
			bad("machine %d: url: %v", i+1, err)
		}
	}
	if (cfg.Webhook.URL == "") != (cfg.Webhook.SecretFile == "") {
		bad("webhook: url and secret_file go together")
	}
	if wrong != nil {
		return nil, fmt.Errorf("%s: %s", file, strings.Join(wrong, "; "))
	}
	cfg.resolve(filepath.Dir(file))
	return cfg, nil
}

// resolve has paths begin at the folder of the configuration, and machines have the policy of
// all if they have none of their own.
func (c *watchConfig) resolve(dir string) {
	paths := append([]*string{&c.State, &c.Webhook.SecretFile, &c.Webhook.CA}, c.paths()...)
	for i := range c.Machines {
		paths = append(paths, c.Machines[i].paths()...)
	}
	for _, path := range paths {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(dir, *path)
		}
	}
	for i := range c.Machines {
		m := &c.Machines[i]
		if m.Policy == "" && m.PolicyKey == "" {
			m.Policy, m.PolicyKey = c.Policy, c.PolicyKey
			if m.TCB == "" {
				m.TCB = c.TCB // which the signer of the policy has signed
			}
		}
		if m.CRL == nil {
			m.CRL = c.CRL
		}
		if m.CA == "" {
			m.CA = c.CA
		}
	}
}

// inTOML says where a file is wrong.
func inTOML(file string, err error) error {
	if unknown, ok := errors.AsType[*toml.StrictMissingError](err); ok && len(unknown.Errors) > 0 {
		line, _ := unknown.Errors[0].Position()
		return fmt.Errorf("%s:%d: there is no option %q here", file, line, strings.Join(unknown.Errors[0].Key(), "."))
	}
	if at, ok := errors.AsType[*toml.DecodeError](err); ok {
		line, _ := at.Position()
		return fmt.Errorf("%s:%d: %w", file, line, err)
	}
	return fmt.Errorf("%s: %w", file, err)
}

// judgement is how a machine is judged: by which policy, which authorities, and what the
// watcher has of its own.
type judgement struct {
	policy *policyFile
	roots  *x509.CertPool
	own    endorsementFiles
}

// watcher makes the watcher of a configuration.
func (a *admin) watcher(cmd *cobra.Command, file string) (*watch.Watcher, error) {
	cfg, err := readWatchConfig(file)
	if err != nil {
		return nil, err
	}
	w := &watch.Watcher{Every: time.Duration(cfg.Every), Patience: time.Duration(cfg.UnreachableAfter), Looked: func(l watch.Look) error { return a.PrintLine(cmd, l) }}
	if w.Store, err = watch.NewStore(cfg.State); err != nil {
		return nil, fmt.Errorf("%s: state: %w", file, err)
	}
	if w.Tell, err = cfg.Webhook.teller(); err != nil {
		return nil, fmt.Errorf("%s: webhook: %w", file, err)
	}
	judges := map[string]judgement{}
	for _, m := range cfg.Machines {
		var j judgement
		if j.policy, err = openPolicy(m.Policy, m.PolicyKey); err != nil {
			return nil, fmt.Errorf("machine %s: %w", m.Name, err)
		}
		if j.roots, err = readRoots(m.CA); err != nil {
			return nil, fmt.Errorf("machine %s: %w", m.Name, err)
		}
		j.own = m.endorsements()
		if _, err := j.own.read("", a.roots); err != nil {
			return nil, fmt.Errorf("machine %s: %w", m.Name, err)
		}
		judges[m.Name] = j
		w.Machines = append(w.Machines, watch.Machine{Name: m.Name, Address: m.URL})
	}
	w.Ask = func(ctx context.Context, m watch.Machine) (*watch.Seen, error) {
		j := judges[m.Name]
		own, err := j.own.read("", a.roots)
		if err != nil {
			return nil, errors.New(cli.NewFailure(err).Message)
		}
		o, err := verifyOnline(ctx, &ask.Asker{Roots: j.roots}, m.Address, j.policy.policy, attest.Expectation{Signed: j.policy.signed, Endorsements: own, Roots: a.roots})
		if err != nil {
			return nil, errors.New(cli.NewFailure(err).Message)
		}
		return watch.NewSeen(o.Evidence, o.verdict)
	}
	return w, nil
}

// openPolicy is readPolicy, as one value.
func openPolicy(path, keyFile string) (*policyFile, error) {
	p, signed, err := readPolicy(path, keyFile)
	if err != nil {
		return nil, err
	}
	return &policyFile{policy: p, signed: signed}, nil
}

// teller gives who tells alarms to the webhook; nil if there is none.
func (w watchWebhook) teller() (func(context.Context, watch.Alarm) error, error) {
	if w.URL == "" {
		return nil, nil
	}
	text, err := cli.ReadSecretFile("secret_file", w.SecretFile)
	if err != nil {
		return nil, err
	}
	secret, err := webhook.ParseSecret(text)
	if err != nil {
		return nil, fmt.Errorf("secret_file: %s: %w", w.SecretFile, err)
	}
	roots, err := readRoots(w.CA)
	if err != nil {
		return nil, err
	}
	poster, err := webhook.NewPoster(webhook.Config{URL: w.URL, Secret: secret, Roots: roots, Option: "url of the section webhook"})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, a watch.Alarm) error {
		ctx, cancel := context.WithTimeout(ctx, tellTime)
		defer cancel()
		event := "watch.alarm"
		if a.Over {
			event = "watch.alarm_over"
		}
		if err := poster.Post(ctx, webhook.Message{ID: a.ID, Type: event, At: a.At, Data: a}); err != nil {
			return errors.New(cli.NewFailure(err).Message)
		}
		return nil
	}, nil
}
