package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/cmd/internal/kmsload"
	"holdfast/cmd/internal/sitetest"
	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
	"holdfast/hsm/process"
	"holdfast/web"
	"holdfast/web/operation"
)

// A harm is what a PKCS#11 module does to its process, and when.
type harm struct {
	name string
	does hsmtest.Harm
	// in is the function of the module that does it, C_Encrypt if empty: a key in the HSM encrypts.
	in string
	// opening: the token is lost before, so that the function is called while it is opened again.
	opening bool
	// times is how often it is done, once if 0.
	times int
	// cause is by which the end of the process is counted; empty if the process goes on.
	cause hsm.Cause
	// words are of the reason, wherever it is told.
	words string
}

const (
	segfault = "it crashed: signal SIGSEGV (segmentation fault)"
	exits0   = "it exited by itself, with status 0"
	stops    = "a signal stopped it (SIGSTOP or one like it), and it was ended"
)

// harms are tried one after the other. Those that the process survives come after one that ends it, so that
// no other is judged by what they leave behind.
var harms = []harm{
	{name: "SIGSEGV", does: hsmtest.Segfault, cause: process.Crashed, words: segfault},
	{name: "SIGSEGV while nothing is asked", does: hsmtest.Segfault | hsmtest.Later, cause: process.Crashed, words: segfault},
	{name: "SIGSEGV in the login", does: hsmtest.Segfault, in: "C_Login", opening: true, cause: process.Crashed, words: segfault},
	{name: "SIGSEGV at each attempt to open it", does: hsmtest.Segfault, in: "C_Initialize", opening: true, times: 3, cause: process.Crashed, words: segfault},
	{name: "abort()", does: hsmtest.Abort, cause: process.Crashed, words: "signal SIGABRT"},
	{name: "abort() in the login", does: hsmtest.Abort, in: "C_Login", opening: true, cause: process.Crashed, words: "signal SIGABRT"},
	{name: "a division by zero", does: hsmtest.Divide, cause: process.Crashed, words: "signal SIGFPE"},
	{name: "SIGBUS", does: hsmtest.BusError, cause: process.Crashed, words: "signal SIGBUS"},
	{name: "a stack that is over", does: hsmtest.OverflowStack, cause: process.Crashed, words: segfault},
	{name: "exit(0)", does: hsmtest.Exit, cause: process.Exited, words: exits0},
	{name: "exit(0) while nothing is asked", does: hsmtest.Exit | hsmtest.Later, cause: process.Exited, words: exits0},
	{name: "exit(0) while it is opened", does: hsmtest.Exit, in: "C_Initialize", opening: true, cause: process.Exited, words: exits0},
	{name: "_exit(0) in the login", does: hsmtest.ExitAtOnce, in: "C_Login", opening: true, cause: process.Exited, words: exits0},
	{name: "_exit(3)", does: hsmtest.Exit3, cause: process.Exited, words: "it exited by itself, with status 3"},
	{name: "SIGSTOP", does: hsmtest.Stop, cause: process.Stopped, words: stops},
	{name: "SIGSTOP while nothing is asked", does: hsmtest.Stop | hsmtest.Later, cause: process.Stopped, words: stops},
	{name: "SIGSTOP while it is opened", does: hsmtest.Stop, in: "C_OpenSession", opening: true, cause: process.Stopped, words: stops},
	{name: "the process's own descriptors are closed", does: hsmtest.CloseAllFiles, cause: process.Exited, words: "fatal error: runtime: netpoll failed"},
	{name: "all limits are lowered to none", does: hsmtest.LowerLimits, cause: hsm.TokenLost, words: "not found in the token"},
	{name: "all signals are blocked, and it hangs", does: hsmtest.BlockSignals, cause: hsm.Hung, words: "Encrypt did not end in 10s; the module's process is ended"},

	{name: "SIGTERM for its process group", does: hsmtest.Terminate},
	{name: "the standard descriptors are closed", does: hsmtest.CloseStandard},
	{name: "all signals are ignored", does: hsmtest.IgnoreSignals},
	{name: "all signals are taken", does: hsmtest.TakeSignals},
	{name: "the folder is changed", does: hsmtest.ChangeFolder},
	{name: "the environment is cleared", does: hsmtest.ClearEnvironment},
	{name: "the umask is changed", does: hsmtest.ChangeUmask},
	{name: "a thread that burns the CPU", does: hsmtest.Burn},
	{name: "1 GiB is lost", does: hsmtest.Leak},
	{name: "4 GiB are lost that were never written to", does: hsmtest.LeakUntouched},
	{name: "all memory is lost that there is", does: hsmtest.LeakAll},
	{name: "descriptors 0 to 20 are closed", does: hsmtest.CloseFiles, cause: process.Exited, words: "it exited by itself, with status 2"},
}

// harmed is an appliance that serves while its module does harm.
type harmed struct {
	*sitetest.Site
	t          *testing.T
	shim       *hsmtest.Shim
	server     *sitetest.Server
	admin      *web.Client
	roots      *x509.CertPool
	credential operation.NewCredential
}

const harmedStore = "prod"

func newHarmed(t *testing.T) *harmed {
	t.Helper()
	dir := t.TempDir()
	folder := filepath.Join(dir, "shim")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	shim, err := hsmtest.BuildShim(folder)
	if err != nil {
		t.Fatal(err)
	}
	h := &harmed{t: t, shim: shim, roots: x509.NewCertPool(), Site: sitetest.NewWith(t, dir, sitetest.Options{Module: shim.Module})}
	t.Cleanup(shim.Reset)
	ca, err := os.ReadFile(h.CA)
	if err != nil || !h.roots.AppendCertsFromPEM(ca) {
		t.Fatal(err)
	}
	h.admin = web.NewClient(h.Socket)
	return h
}

func (h *harmed) try(method string, in, out any, route ...string) error {
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	return h.admin.Do(ctx, method, web.Path(route...), in, out)
}

func (h *harmed) do(method string, in, out any, route ...string) {
	h.t.Helper()
	if err := h.try(method, in, out, route...); err != nil {
		h.t.Fatalf("%s %v: %v", method, route, err)
	}
}

// prepare makes what KMS uses: a key in memory and one in the HSM.
func (h *harmed) prepare() {
	h.t.Helper()
	h.credential = operation.NewCredential{AccessKeyID: strings.Repeat("A", 20), SecretAccessKey: strings.Repeat("s", 43)}
	h.do(http.MethodPost, operation.NewKeyStore{Name: harmedStore, URIPathPrefix: "/prod"}, nil, "keystores")
	h.do(http.MethodPost, h.credential, nil, "keystores", harmedStore, "credentials")
	h.do(http.MethodPost, operation.NewGrant{Principal: appliance.AnyPrincipal, Operations: []appliance.Operation{appliance.OpEncrypt, appliance.OpDecrypt}}, nil, "keystores", harmedStore, "grants")
	for id, custody := range map[string]appliance.Custody{"cached": appliance.CustodyCached, "hsm": appliance.CustodyHSM} {
		h.do(http.MethodPost, operation.NewKey{ID: id, Usage: appliance.Usage{Encrypt: true, Decrypt: true}, Custody: custody}, nil, "keystores", harmedStore, "keys")
	}
}

// kms is AWS KMS, which waits as long as a busy machine may take.
func (h *harmed) kms() *kmsload.Client {
	return kmsload.New("https://"+h.server.XKS+"/prod"+appliance.XKSPath, h.credential.AccessKeyID, string(h.credential.SecretAccessKey), h.roots, 30*time.Second)
}

func (h *harmed) encrypt(key string) error {
	c := h.kms()
	defer c.HTTP.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(h.t.Context(), 30*time.Second)
	defer cancel()
	sealed, err := c.Encrypt(ctx, key, "harm", []byte("x"), nil)
	if err != nil {
		return err
	}
	got, err := c.Decrypt(ctx, key, "harm", sealed, nil)
	if err == nil && string(got.Plaintext) != "x" {
		err = fmt.Errorf("it decrypted to %q", got.Plaintext)
	}
	return err
}

// harmPatience is how long something may take on a busy machine that is done by itself.
const harmPatience = time.Minute

func (h *harmed) comes(what string, so func() bool) {
	h.t.Helper()
	late := time.After(harmPatience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-late:
			log := h.server.Log.String()
			h.t.Fatalf("not within %s: %s\n…%s", harmPatience, what, log[max(0, len(log)-4000):])
		}
	}
}

// metric gives the value of a sample; 0 if there is none.
func (h *harmed) metric(sample string) float64 {
	h.t.Helper()
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: h.roots, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true}}
	res, err := c.Get("https://" + h.server.Admin + "/metrics")
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(sample) + ` (\S+)$`).FindSubmatch(text)
	if found == nil {
		return 0
	}
	v, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		h.t.Fatal(err)
	}
	return v
}

func ends(cause hsm.Cause) string {
	return fmt.Sprintf(`holdfast_hsm_process_ends_total{cause=%q,token=%q}`, cause, sitetest.TokenLabel)
}

// TestHarm: whatever a PKCS#11 module does to its process, requests for keys in memory are answered without
// one failure, keys in the HSM come back by themselves, and the status, the metrics, the log and the audit
// log say what happened and what to do. Nothing of it has the PIN.
func TestHarm(t *testing.T) {
	h := newHarmed(t)
	h.server = h.Start(t)
	h.prepare()
	h.harmAtBoot()

	load := kmsload.Start(kmsload.Options{Client: h.kms, Keys: []string{"cached"}, Connections: 2, Pause: 5 * time.Millisecond, Name: "load"})
	h.comes("KMS is answered", func() bool { return load.Count() > 0 })
	for _, row := range harms {
		t.Run(row.name, func(t *testing.T) {
			h.t = t
			answered := load.Count()
			row.try(h)
			h.comes("KMS is answered", func() bool { return load.Count() > answered })
		})
	}
	h.t = t
	h.flood()
	h.forks()
	r := load.Stop()
	t.Log(r)
	if r.Failed > 0 || len(r.Wrong) > 0 {
		t.Errorf("%d requests for a key in memory failed: %s %q", r.Failed, r.Detail(), r.Wrong)
	}
	h.noPIN()
	if err := h.server.Stop(); err != nil {
		t.Error(err)
	}
	if left := h.modules(); len(left) > 0 {
		t.Errorf("module processes are left: %v", left)
	}
}

// harmAtBoot restarts the machine, with a module that ends its process while it is opened and again while keys are
// unwrapped. The boot goes on by itself.
func (h *harmed) harmAtBoot() {
	h.t.Helper()
	if err := h.server.Stop(); err != nil {
		h.t.Fatal(err)
	}
	h.shim.Do("C_Initialize", hsmtest.Exit, 1)
	h.shim.Do("C_Decrypt", hsmtest.Segfault, 1)
	h.server = h.Start(h.t)
	if err := h.encrypt("cached"); err != nil {
		h.t.Error(err)
	}
	log, records := h.server.Log.String(), h.records()
	for cause, words := range map[hsm.Cause]string{process.Exited: exits0, process.Crashed: segfault} {
		if h.metric(ends(cause)) != 1 || !strings.Contains(log, words) || !strings.Contains(records, words) {
			h.t.Errorf("at boot %q is not told: %v, %v, %v\n%s", words, h.metric(ends(cause)), strings.Contains(log, words), strings.Contains(records, words), records)
		}
	}
}

// records are those of module processes that have ended.
func (h *harmed) records() string {
	h.t.Helper()
	return h.Run(h.t, "audit", "search", "--operation", "restart module process", "--limit", "500", "--json")
}

func (row *harm) function() string { return cmp.Or(row.in, "C_Encrypt") }

// do has the module do harm, and gives what became of a request for a key in the HSM, in which it may happen.
func (row *harm) do(h *harmed) error {
	h.shim.Do(row.function(), row.does, max(row.times, 1))
	if row.opening {
		h.shim.Restart()
	}
	return h.encrypt("hsm")
}

// try has the module do harm, and looks at what comes of it.
func (row *harm) try(h *harmed) {
	t := h.t
	h.comes("custody hsm serves", func() bool { return h.encrypt("hsm") == nil })
	before, logged, recorded := h.probed().Process.LastEnd, len(h.server.Log.String()), h.records()
	counted := h.metric(ends(row.cause))
	defer h.shim.Release()
	err := row.do(h)
	if row.cause == "" {
		if after := h.probed().Process.LastEnd; err != nil || h.encrypt("hsm") != nil || !reflect.DeepEqual(after, before) {
			t.Errorf("the process does not go on: %v, %+v", err, after)
		}
		return
	}
	want, again := counted+float64(max(row.times, 1)), 0
	began := time.Now()
	h.comes("the end is counted", func() bool {
		if h.metric(ends(row.cause)) >= want {
			return true
		}
		// It may have hit a process that was just replaced, as is done a minute after the start, or given up for another reason.
		if time.Since(began) > hsm.DefaultCallTimeout+2*time.Second && h.shim.Undone(row.function()) == 0 && h.encrypt("hsm") == nil {
			began, want, again = time.Now(), h.metric(ends(row.cause))+float64(max(row.times, 1)), again+1
			_ = row.do(h)
		}
		return false
	})
	h.comes("custody hsm is back", func() bool { return h.encrypt("hsm") == nil })
	end := h.probed().Process.LastEnd
	if end == nil || end.Cause != string(row.cause) || !strings.Contains(end.Reason, row.words) || !strings.Contains(end.Do, "another process is started by itself; ") || strings.Contains(end.Reason, "\n") {
		t.Errorf("the status says %+v", end)
	}
	if cli := h.Run(t, "status"); !strings.Contains(cli, "last end") || !strings.Contains(cli, row.words) {
		t.Errorf("holdfast status says %s", cli)
	}
	if log := h.server.Log.String()[logged:]; !strings.Contains(log, row.words) || !row.opening && !strings.Contains(log, "cause="+string(row.cause)) {
		t.Errorf("the log says %s", log)
	}
	var records string
	h.comes("it is on record", func() bool {
		records = h.records()
		return strings.Count(records, row.words) > strings.Count(recorded, row.words)
	})
	if n := strings.Count(records, row.words) - strings.Count(recorded, row.words); n > 1+again || !strings.Contains(records, "token "+sitetest.TokenLabel+": ") {
		t.Errorf("it has %d records: %s", n, records)
	}
}

// probed is the health of the HSM, asked for now.
func (h *harmed) probed() appliance.HSMHealth {
	h.t.Helper()
	var page struct{ Items []appliance.HSMHealth }
	h.do(http.MethodPost, nil, &page, "hsms", "probe")
	if len(page.Items) != 1 {
		h.t.Fatalf("%+v", page)
	}
	return page.Items[0]
}

// flood: what the module writes is read, is not kept, and is told when the process ends, without the PIN.
func (h *harmed) flood() {
	h.t.Helper()
	const most = 64 << 20
	memory, logged := h.memory(), len(h.server.Log.String())
	h.shim.Do("C_Encrypt", hsmtest.Flood, 1)
	if err := h.encrypt("hsm"); err != nil {
		h.t.Errorf("while it floods: %v", err)
	}
	if grown := h.memory() - memory; grown > most {
		h.t.Errorf("%d bytes of memory more", grown)
	}
	if log := h.server.Log.String()[logged:]; strings.Contains(log, "vendor: ") {
		h.t.Errorf("the log has what the module writes: %s", log[:min(len(log), 2000)])
	}
	h.shim.Do("C_Encrypt", hsmtest.ExitAtOnce, 1)
	_ = h.encrypt("hsm") // the process ends in it
	h.comes("custody hsm is back", func() bool { return h.encrypt("hsm") == nil })
	end := h.probed().Process.LastEnd
	if end == nil || !strings.Contains(end.Reason, "bytes on standard error: vendor: error") || !strings.Contains(end.Reason, "C_Login pin=(the PIN)") || len(end.Reason) > 8<<10 {
		h.t.Errorf("the status says %+v", end)
	}
}

// forks: what the module has started ends with its process.
func (h *harmed) forks() {
	h.t.Helper()
	h.shim.Do("C_Encrypt", hsmtest.ForkLoop, 1)
	if err := h.encrypt("hsm"); err != nil {
		h.t.Errorf("while it forks: %v", err)
	}
	if n := len(h.modules()); n < 200 {
		h.t.Errorf("%d processes are there", n)
	}
	h.shim.Do("C_Encrypt", hsmtest.Segfault, 1)
	_ = h.encrypt("hsm") // the process ends in it
	h.comes("custody hsm is back", func() bool { return h.encrypt("hsm") == nil })
	h.comes("what was forked has ended", func() bool { return len(h.modules()) == 1 })
}

// modules are the processes of the server's modules, and of what they have started.
func (h *harmed) modules() (all []string) {
	h.t.Helper()
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(commands) == 0 {
		h.t.Fatal(commands, err)
	}
	for _, c := range commands {
		text, _ := os.ReadFile(c) // of one that has ended there is none
		if strings.Contains(string(text), "\x00module\x00") && strings.Contains(string(text), h.Dir) {
			all = append(all, c)
		}
	}
	return all
}

// memory is the most that the server has had, in bytes.
func (h *harmed) memory() int {
	h.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.server.Cmd.Process.Pid))
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)
	if err != nil || found == nil {
		h.t.Fatal(err, string(text))
	}
	kib, err := strconv.Atoi(string(found[1]))
	if err != nil {
		h.t.Fatal(err)
	}
	return kib << 10
}

// noPIN: neither the log nor a file of the state has the PIN, which the module has written.
func (h *harmed) noPIN() {
	h.t.Helper()
	if strings.Contains(h.server.Log.String(), sitetest.PIN) {
		h.t.Error("the log has the PIN")
	}
	files := 0
	err := filepath.WalkDir(filepath.Join(h.Dir, "state"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		text, err := os.ReadFile(path)
		if bytes.Contains(text, []byte(sitetest.PIN)) {
			h.t.Errorf("%s has the PIN", path)
		}
		return err
	})
	if err != nil || files == 0 {
		h.t.Error(files, err)
	}
}
