package main

import (
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	_ "modernc.org/sqlite"

	"holdfast/appliance/postgres/postgrestest"
	"holdfast/attest/predict/predicttest"
	"holdfast/attest/tpm/swtpm"
	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/holdfastd"
	"holdfast/cmd/internal/sitetest"
	"holdfast/xks/xkstest"
)

// TestMain lets the test's binary be both programs.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"holdfast": main, "holdfastd": func() { os.Exit(cli.Run(holdfastd.New())) }})
}

// TestScripts runs the commands of both programs as people type them, against servers that they
// start. Besides the commands of package testscript there are:
//
//	serve [FILE]           start an appliance, its configuration extended by the file
//	begin                  the same, but only wait until it listens
//	await PATTERN          wait until the server's log has a line that matches
//	by-hand                what the machine runs is authorized, and the PIN sealed
//	                       to it, by the script alone
//	boots KERNEL           the machine boots that kernel from now on
//	broker-serve DIR       start a broker; $BROKER is its address, $BROKER_PIN its pin
//	stop-server            SIGTERM; it must end cleanly
//	kill-server            SIGKILL
//	refused CODE PATTERN PROGRAM ARGS...
//	                       the call must exit with the code and print one line
//	                       that matches, to stderr; log lines do not count
//	json PATH PATTERN      the value at the path in the JSON on stdout matches whole
//	capture NAME PATTERN   set NAME to what the group in the pattern matches on stdout
//	unmapped NAME          the server has not loaded a file of that name, and no module process
//	                       is there; negated, one is there, and the server has not
//	mode MODE FILE         the file has the mode
//	database STATEMENT     change the database by hand, behind the server's back
//	postgres               start a PostgreSQL server, with an empty database $DATABASE
//	power on|off           boot the machine alone, without a server
//	of-fleet URL           have the configuration name a fleet's database, and the shortest
//	                       grace; negated, take both out
//	append FILE TEXT       append a line to a file
//	kms OPERATION [KEY] STATUS [ERROR]
//	                       call as AWS KMS, with $ACCESS_KEY_ID, $SECRET_ACCESS_KEY
//	                       and $PREFIX; decrypt takes what encrypt gave last
//	evidence FILE PROGRAM [cap]
//	                       boot a machine that has a TPM alone and measures the
//	                       program, and write its evidence for $NONCE, which is
//	                       made after the cap if that is asked for
//	image DIR [signed]     build DIR/image.raw, whose root is the folder DIR/root; if
//	                       signed, by the key in DIR/keys/db.esl
//
// $WORK/holdfast.toml is a configuration that serves, HOLDFAST_SOCKET the socket
// in it.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			t := env.T().(testing.TB) // testscript.Run promises it
			s := &script{t: t, site: sitetest.New(t, env.WorkDir)}
			env.Values[scriptKey{}] = s
			env.Setenv("HOLDFAST_SOCKET", s.site.Socket)
			env.Setenv("SOCKET", s.site.Socket)
			env.Setenv("SOFTHSM2_CONF", s.site.SoftHSM)
			env.Setenv("CA", s.site.CA)
			env.Setenv("GORACE", sitetest.GoRace)
			env.Setenv("SERVICE", "kms-xks-proxy")
			env.Setenv("NONCE", hex.EncodeToString(sitetest.EvidenceNonce))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"database": cmdDatabase,
			"serve":    cmdServe, "begin": cmdBegin, "await": cmdAwait, "by-hand": cmdByHand, "boots": cmdBoots, "stop-server": cmdStop, "kill-server": cmdKill, "refused": cmdRefused, "incomplete": cmdIncomplete, "json": cmdJSON,
			"capture": cmdCapture, "mode": cmdMode, "append": cmdAppend, "kms": cmdKMS, "evidence": cmdEvidence, "unmapped": cmdUnmapped, "broker-serve": cmdBrokerServe,
			"image": cmdImage, "postgres": cmdPostgres, "of-fleet": cmdOfFleet, "power": cmdPower,
		},
	})
}

// script is what the commands of one script share.
type script struct {
	t      testing.TB
	site   *sitetest.Site
	server *sitetest.Server
	// powered is the machine where no server runs.
	powered *swtpm.Process
	sealed  map[string]xkstest.Body // by key ID
}

type scriptKey struct{}

func of(ts *testscript.TestScript) *script { return ts.Value(scriptKey{}).(*script) }

func usage(ts *testscript.TestScript, ok bool, text string) {
	if !ok {
		ts.Fatalf("usage: %s", text)
	}
}

func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) <= 1, "serve [FILE]")
	s := of(ts)
	if len(args) == 1 {
		f, err := os.OpenFile(s.site.Config, os.O_WRONLY|os.O_APPEND, 0)
		ts.Check(err)
		_, err = f.WriteString("\n" + ts.ReadFile(args[0]))
		ts.Check(errors.Join(err, f.Close()))
	}
	s.serve(ts, sitetest.ServingLine)
}

func (s *script) serve(ts *testscript.TestScript, line *regexp.Regexp) {
	s.server = s.site.Begin(s.t, line)
	ts.Setenv("XKS", s.server.XKS)
	ts.Setenv("ADMIN", s.server.Admin)
}

func cmdBegin(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 0, "begin")
	of(ts).serve(ts, sitetest.ListeningLine)
}

func cmdAwait(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "await PATTERN")
	line, log := regexp.MustCompile("(?m)"+args[0]), of(ts).server.Log
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.After(time.Minute); !line.MatchString(log.String()); {
		select {
		case <-ticker.C:
		case <-deadline:
			ts.Fatalf("the log has no %s\n%s", args[0], log)
		}
	}
}

func cmdUnmapped(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) == 1, "[!] unmapped NAME")
	maps, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(of(ts).server.Cmd.Process.Pid), "maps"))
	ts.Check(err)
	if strings.Contains(string(maps), args[0]) {
		ts.Fatalf("the server has loaded: %s", maps)
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	ts.Check(err)
	there := false
	for _, c := range commands {
		command, _ := os.ReadFile(c) // of one that has ended there is none
		stat, _ := os.ReadFile(filepath.Join(filepath.Dir(c), "stat"))
		_, after, _ := strings.Cut(string(stat), ") ") // state and parent (proc_pid_stat(5))
		there = there || strings.Contains(string(command), "\x00module\x00") && strings.HasPrefix(after[min(2, len(after)):], strconv.Itoa(of(ts).server.Cmd.Process.Pid)+" ")
	}
	if there != neg {
		ts.Fatalf("a module process is there: %v", there)
	}
}

func cmdDatabase(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "database STATEMENT")
	db, err := sql.Open("sqlite", "file:"+ts.MkAbs("state/holdfast.db")+"?_pragma=busy_timeout(5000)")
	ts.Check(err)
	defer db.Close()
	done, err := db.Exec(args[0])
	ts.Check(err)
	if n, err := done.RowsAffected(); err != nil || n == 0 {
		ts.Fatalf("%s changed nothing: %v", args[0], err)
	}
}

func cmdPower(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1 && (args[0] == "on" || args[0] == "off"), "power on|off")
	s := of(ts)
	if args[0] == "off" {
		s.powered.Stop()
		return
	}
	var err error
	s.powered, err = s.site.PowerOn()
	ts.Check(err)
	ts.Defer(s.powered.Stop)
}

func cmdPostgres(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 0, "postgres")
	t := of(ts).t
	ts.Setenv("DATABASE", postgrestest.Start(t).Database(t))
}

func cmdOfFleet(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) == 1, "[!] of-fleet URL")
	const section = "[state]\n"
	path := of(ts).site.Config
	text, err := os.ReadFile(path)
	ts.Check(err)
	before, after := section, fmt.Sprintf("[fleet]\ngrace = \"10s\"\n%sdatabase = %q\n", section, args[0])
	if neg {
		before, after = after, before
	}
	if !strings.Contains(string(text), before) {
		ts.Fatalf("%s has no %q", path, before)
	}
	ts.Check(os.WriteFile(path, []byte(strings.Replace(string(text), before, after, 1)), 0o600))
}

func cmdByHand(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 0, "by-hand")
	of(ts).site.ByHand = true
}

func cmdBoots(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "boots KERNEL")
	of(ts).site.Components = []swtpm.Component{{Name: ".linux", Content: []byte(args[0])}}
}

func cmdBrokerServe(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "broker-serve DIR")
	s := of(ts)
	var found []string
	s.server, found = s.site.Launch(s.t, brokerLine, func() {}, "broker", "serve", "--address", "127.0.0.1:0", "--dir", ts.MkAbs(args[0]))
	ts.Setenv("BROKER", found[1])
	ts.Setenv("BROKER_PIN", found[2])
}

func cmdStop(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 0, "stop-server")
	ts.Check(of(ts).server.Stop())
}

func cmdKill(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 0, "kill-server")
	s := of(ts)
	ts.Check(s.server.Cmd.Process.Kill())
	<-s.server.Ended
}

var logLine = regexp.MustCompile(`(?m)^time=.*\n`)

func cmdRefused(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) >= 3, "refused CODE PATTERN PROGRAM ARGS...")
	err := ts.Exec(args[2], args[3:]...)
	var exit *exec.ExitError
	if code, _ := strconv.Atoi(args[0]); !errors.As(err, &exit) || exit.ExitCode() != code {
		ts.Fatalf("it ended with %v, want exit code %s", err, args[0])
	}
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("it printed to stdout: %s", out)
	}
	line := logLine.ReplaceAllString(ts.ReadFile("stderr"), "")
	if !strings.HasPrefix(line, args[2]+": ") || strings.Index(line, "\n") != len(line)-1 {
		ts.Fatalf("want one line on stderr, got %q", line)
	}
	if !regexp.MustCompile(args[1]).MatchString(line) {
		ts.Fatalf("want %s, got %s", args[1], line)
	}
}

// cmdIncomplete wants a verdict that is neither good nor bad: exit code 3, on stdout.
func cmdIncomplete(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) >= 2, "incomplete PROGRAM ARGS...")
	err := ts.Exec(args[0], args[1:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 3 {
		ts.Fatalf("it ended with %v, want exit code 3", err)
	}
	if line := logLine.ReplaceAllString(ts.ReadFile("stderr"), ""); line != "" {
		ts.Fatalf("it printed to stderr: %s", line)
	}
}

func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "json PATH PATTERN")
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	for part := range strings.SplitSeq(args[0], ".") {
		switch in := v.(type) {
		case map[string]any:
			v = in[part]
		case []any:
			i, err := strconv.Atoi(part)
			switch {
			case part == "length":
				v = len(in)
			case err != nil || i >= len(in):
				ts.Fatalf("there is no %s of %s", part, args[0])
			default:
				v = in[i]
			}
		default:
			ts.Fatalf("there is no %s of %s", part, args[0])
		}
	}
	got, err := json.Marshal(v)
	ts.Check(err)
	if text, ok := v.(string); ok {
		got = []byte(text)
	}
	if !regexp.MustCompile("^(?:" + args[1] + ")$").Match(got) {
		ts.Fatalf("%s is %s", args[0], got)
	}
}

func cmdCapture(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "capture NAME PATTERN")
	found := regexp.MustCompile("(?m)" + args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if len(found) != 2 {
		ts.Fatalf("stdout has no %s", args[1])
	}
	ts.Setenv(args[0], found[1])
}

func cmdMode(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "mode MODE FILE")
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := strconv.FormatUint(uint64(info.Mode().Perm()), 8); got != args[0] {
		ts.Fatalf("%s has the mode %s", args[1], got)
	}
}

func cmdAppend(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "append FILE TEXT")
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	ts.Check(err)
	_, err = f.WriteString(args[1] + "\n")
	ts.Check(errors.Join(err, f.Close()))
}

func cmdKMS(ts *testscript.TestScript, neg bool, args []string) {
	const text = "kms OPERATION [KEY] STATUS [ERROR]"
	usage(ts, !neg && len(args) >= 2, text)
	operation, key, path := args[0], "", "/health"
	if args = args[1:]; operation != "health" {
		key, args = args[0], args[1:]
		path = "/keys/" + key + "/" + operation
	}
	usage(ts, len(args) == 1 || len(args) == 2, text)
	s := of(ts)
	k := s.server.KMS(s.t)
	k.URL += ts.Getenv("PREFIX")
	k.Service, k.AccessKeyID, k.SecretAccessKey = ts.Getenv("SERVICE"), ts.Getenv("ACCESS_KEY_ID"), ts.Getenv("SECRET_ACCESS_KEY")
	const plaintext = "what KMS has encrypted"
	body := xkstest.Body{"requestMetadata": xkstest.Metadata()}
	switch operation {
	case "encrypt":
		body = xkstest.EncryptBody(plaintext)
	case "decrypt":
		body = xkstest.DecryptBody(s.sealed[key])
	}
	res, err := k.HTTP.Do(k.Request(path, body))
	if err != nil {
		// Too slow a machine: the server ends a connection whose request takes longer than
		// five seconds to arrive. KMS calls once more, too.
		s.t.Logf("called once more after: %v", err)
		res, err = k.HTTP.Do(k.Request(path, body))
	}
	ts.Check(err)
	a := k.Read(res)
	if want := append(slices.Clone(args[1:]), "")[0]; strconv.Itoa(a.Status) != args[0] || a.ErrorName() != want {
		ts.Fatalf("%s: got %d %s\n%s", path, a.Status, a.Text, s.server.Log)
	}
	switch {
	case a.Status != 200:
	case operation == "encrypt":
		if s.sealed == nil {
			s.sealed = map[string]xkstest.Body{}
		}
		s.sealed[key] = a.Body
	case operation == "decrypt":
		if got := string(a.Body.Bytes(s.t, "plaintext")); got != plaintext {
			ts.Fatalf("decrypted %q", got)
		}
	}
}

func cmdEvidence(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && (len(args) == 2 || len(args) == 3 && args[2] == "cap"), "evidence FILE PROGRAM [cap]")
	m, err := sitetest.BootTPM(of(ts).t.TempDir(), args[1])
	ts.Check(err)
	defer m.Off()
	if len(args) == 3 {
		ts.Check(m.RecordCap())
	}
	text, err := m.Evidence()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), text, 0o600))
}

func cmdImage(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && (len(args) == 1 || len(args) == 2 && args[1] == "signed"), "image DIR [signed]")
	dir := ts.MkAbs(args[0])
	image := predicttest.Image{Root: filepath.Join(dir, "root")}
	if len(args) == 2 {
		key, err := predicttest.NewKey(dir, "signer", nil)
		ts.Check(err)
		image.Signer = key
		keys := filepath.Join(dir, "keys")
		ts.Check(errors.Join(os.MkdirAll(keys, 0o700), os.WriteFile(filepath.Join(keys, "PK.esl"), key.ESL(), 0o600), os.WriteFile(filepath.Join(keys, "db.esl"), key.ESL(), 0o600)))
	}
	_, err := image.Build(dir)
	ts.Check(err)
}

// TestEveryCommandIsTested in a script; check has tests of its own.
func TestEveryCommandIsTested(t *testing.T) {
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	called := regexp.MustCompile(`(?m)^! ?exec |^exec |^incomplete |^refused [12] '.*' `).ReplaceAllString(all.String(), "")
	for _, root := range []*cobra.Command{newRoot(), holdfastd.New()} {
		for _, c := range root.Commands() {
			for _, c := range append(c.Commands(), c) {
				if (c.HasSubCommands() && c.Name() != "seal") || c.Name() == "check" {
					continue
				}
				if !regexp.MustCompile(`(?m)^` + c.CommandPath() + `( |$)`).MatchString(called) {
					t.Errorf("no script calls %s", c.CommandPath())
				}
			}
		}
	}
}
