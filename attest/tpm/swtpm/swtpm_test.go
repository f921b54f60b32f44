package swtpm_test

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/attest/tpm/swtpm"
)

// childEnv has the test's program run swtpm in the directory that it names.
const childEnv = "HOLDFAST_SWTPM_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		p, err := swtpm.Start(dir)
		if err != nil {
			panic(err)
		}
		os.Stdout.WriteString(p.Socket + "\n")
		select {}
	}
	os.Exit(m.Run())
}

func TestEndsWithItsParent(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(program)
	parent.Env = append(os.Environ(), childEnv+"="+t.TempDir())
	parent.Stderr = os.Stderr
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	defer parent.Wait()
	defer parent.Process.Kill()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal("the child did not start swtpm: ", err)
	}
	// swtpm keeps the connection until it ends.
	conn, err := net.Dial("unix", strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || os.IsTimeout(err) {
		t.Errorf("swtpm lives on without its parent: %v", err)
	}
}

func TestOneTPMForADirectory(t *testing.T) {
	dir := t.TempDir()
	p, err := swtpm.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	other, err := swtpm.Start(dir)
	if err == nil {
		other.Stop()
		t.Fatal("two TPMs have the same state")
	}
	if !strings.Contains(err.Error(), "stop that one first") {
		t.Error(err)
	}
	p.Stop()
	if p, err = swtpm.Start(dir); err != nil {
		t.Fatal(err)
	}
	p.Stop()
}

func TestDamagedState(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tpm2-00.permall"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := swtpm.Start(dir)
	if err == nil {
		p.Stop()
		t.Fatal("a TPM started with a damaged state")
	}
	if !strings.Contains(err.Error(), "damaged") || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
	t.Log(err)
}
