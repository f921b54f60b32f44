package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/xks/xkstest"
)

// startFleet starts a fleet of three nodes.
func startFleet(t *testing.T, dir string) *process {
	t.Helper()
	return startIn(t, filepath.Join(dir, fleetFolder), dir, "--nodes", "3")
}

// nodesOf gives the processes of the nodes, as they were printed last.
func nodesOf(t *testing.T, printed string) (pids []int) {
	t.Helper()
	for _, m := range regexp.MustCompile(`(?m)^node \d +process (\d+); `).FindAllStringSubmatch(printed, -1) {
		pid, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	if len(pids) != 3 {
		t.Fatalf("%d nodes are printed:\n%s", len(pids), printed)
	}
	return pids
}

// TestFleet: it acts as KMS through the balancer, kills a node, blocks a key, and says what
// each step showed; the curl line works; a node that is killed is started again; the next
// start finds all as it was, also after all of it was killed.
func TestFleet(t *testing.T) {
	dir := t.TempDir()
	p := startFleet(t, dir)
	checkFleetTour(t, p.printed)
	paste(t, p.printed)
	sealed := p.kms().OK("/keys/demo-key/encrypt", xkstest.EncryptBody("from before"))

	if err := syscall.Kill(nodesOf(t, p.printed)[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"it is started again", "node 1 serves again"} {
		if line, err := p.out.ReadString('\n'); err != nil || !strings.Contains(line, want) {
			t.Errorf("it prints %q, want %q: %v", line, want, err)
		}
	}
	var s operation.Status
	if err := web.NewClient(p.dev.AdminSocket).Do(t.Context(), http.MethodGet, "status", nil, &s); err != nil || s.Locked {
		t.Errorf("node 1 is %+v: %v", s, err)
	}
	p.stop()
	for _, gone := range []string{"dev.json", "node1/admin.sock", "postgres/.s.PGSQL.5432"} {
		if _, err := os.Stat(filepath.Join(dir, fleetFolder, gone)); err == nil {
			t.Errorf("%s is still there after the end", gone)
		}
	}

	p = startFleet(t, dir)
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait()
	p = startFleet(t, dir)
	checkFleetTour(t, p.printed)
	if got := p.kms().OK("/keys/demo-key/decrypt", xkstest.DecryptBody(sealed)).Bytes(t, "plaintext"); string(got) != "from before" {
		t.Errorf("decrypted %q", got)
	}
	for range 3 { // each time another node
		p.kms().OK("/keys/demo-key/encrypt", xkstest.EncryptBody("x"))
	}
	p.stop()
}

// checkFleetTour looks for what each step showed.
func checkFleetTour(t *testing.T, printed string) {
	t.Helper()
	for _, want := range []string{
		`Fleet:\n  PostgreSQL \d+ +[0-9.]+ ms   psql `,
		`  node 3 +[0-9.]+ ms   process \d+, KMS's port `,
		`Acting as KMS, over HTTPS, through the balancer:\n  GetHealthStatus +[0-9.]+ ms   HSM ACTIVE`,
		`  Decrypt +[0-9.]+ ms   the plaintext is back`,
		`Killing node 3 \(kill -9\) `,
		`  before the kill +[1-9]\d* requests answered`,
		`  after the kill +[1-9]\d* requests answered, \d+ failed, 0 wrong`,
		`  longest gap +[0-9.]+ ms `,
		`Blocking demo-key at node 1, while node 3 is dead:`,
		`  node 2 +[0-9.]+ ms   refuses it: InvalidStateException`,
		`  caught up +its first answer for demo-key is: InvalidStateException`,
		`  unblock +[0-9.]+ ms `,
	} {
		if !regexp.MustCompile(`(?m)^` + want).MatchString(printed) {
			t.Errorf("the tour lacks %s:\n%s", want, printed)
		}
	}
	m := regexp.MustCompile(`(?m)^  longest failure +([0-9.]+) ms`).FindStringSubmatch(printed)
	if m == nil {
		t.Fatalf("the longest failure is not told:\n%s", printed)
	}
	if ms, err := strconv.ParseFloat(m[1], 64); err != nil || ms > 2000 {
		t.Errorf("a connection of a killed node failed for %s ms: %v", m[1], err)
	}
}

// TestFleetSetupCode: the code that is printed is the one that all nodes accept.
func TestFleetSetupCode(t *testing.T) {
	dir := t.TempDir()
	p := startFleet(t, dir)
	sum := sha256.Sum256([]byte(p.dev.SetupCode))
	text, err := os.ReadFile(filepath.Join(dir, fleetFolder, "setup-code.json"))
	if err != nil || !strings.Contains(string(text), hex.EncodeToString(sum[:])) {
		t.Errorf("the code %q is not in %s: %v", p.dev.SetupCode, text, err)
	}
	for node := 1; node <= 3; node++ {
		if _, err := os.Stat(filepath.Join(dir, fleetFolder, nodeName(node), "state", "setup-code")); err == nil {
			t.Errorf("node %d has made a code of its own", node)
		}
	}
	p.stop()
}

// TestFleetRefuses: what a fleet does not have is refused with a line.
func TestFleetRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for want, args := range map[string][]string{
		"--nodes 0 is not a number from 1 to 9":    {"--nodes", "0"},
		"--nodes 10 is not a number from 1 to 9":   {"--nodes", "10"},
		"--tamper is for one machine":              {"--nodes", "3", "--tamper"},
		"--release broker is for one machine":      {"--nodes", "3", "--release", "broker"},
		"--node is for holdfast-dev itself":        {"--node"},
		"choose another address with --xks-addr":   {"--nodes", "3", "--xks-addr", taken.Addr().String()},
		"choose another address with --admin-addr": {"--nodes", "3", "--admin-addr", taken.Addr().String()},
		"another process of holdfast-dev uses it":  nil,
		"was made by PostgreSQL 9, and the newest": nil,
	} {
		t.Run(want, func(t *testing.T) {
			dir := t.TempDir()
			switch {
			case strings.HasPrefix(want, "another process"):
				if err := os.Mkdir(filepath.Join(dir, fleetFolder), 0o700); err != nil {
					t.Fatal(err)
				}
				unlock, err := lockFolder(filepath.Join(dir, fleetFolder), 0)
				if err != nil {
					t.Fatal(err)
				}
				defer unlock()
				args = []string{"--nodes", "2"}
			case strings.HasPrefix(want, "was made by"):
				data := filepath.Join(dir, fleetFolder, "postgres", "data")
				if err := os.MkdirAll(data, 0o700); err != nil {
					t.Fatal(err)
				}
				write("PG_VERSION", "9\n")(t, data)
				args = []string{"--nodes", "2"}
			}
			cmd := command(t, append([]string{"--dir", dir}, args...)...)
			var stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = io.Discard, &stderr
			err := cmd.Run()
			if got := stderr.String(); err == nil || strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "holdfast-dev: ") || !strings.Contains(got, want) {
				t.Errorf("it printed %q: %v", got, err)
			}
		})
	}
}

// TestFleetStoppedEarly: Ctrl-C before it serves ends all that was started.
func TestFleetStoppedEarly(t *testing.T) {
	dir := t.TempDir()
	cmd := command(t, "--dir", dir, "--nodes", "3")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, fleetFolder, nodeName(1), "holdfast.log")
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if text, err := os.ReadFile(log); err == nil && bytes.Contains(text, []byte("listening")) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("node 1 does not start: %s%s", stdout.String(), stderr.String())
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || !strings.HasSuffix(stdout.String(), "\nstopped\n") {
		t.Errorf("it did not stop cleanly: %v: %s%s", err, stdout.String(), stderr.String())
	}
	if _, err := os.Stat(filepath.Join(dir, fleetFolder, "postgres", ".s.PGSQL.5432")); err == nil {
		t.Error("PostgreSQL still runs")
	}
}
