package hsmtest

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"holdfast/hsm/softhsm"
)

//go:embed shim/shim.c
var source []byte

// functions are those that the shim watches, in the order of shim/shim.c.
var functions = []string{
	"C_Initialize", "C_GetSlotList", "C_GetTokenInfo", "C_OpenSession", "C_GetSessionInfo", "C_Login",
	"C_FindObjectsInit", "C_GenerateKey", "C_CreateObject", "C_DestroyObject", "C_GenerateRandom",
	"C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt",
}

// control is the layout of the control file, as in shim/shim.c.
type control struct {
	delay, cut, epoch, hang     atomic.Uint32
	failCode, failCount, called [15]atomic.Uint32
}

// Shim is a PKCS#11 module before SoftHSM2 that obeys: see shim/shim.c.
type Shim struct {
	// Module is the path of the shim.
	Module string
	// Env are the environment variables that a process needs to load it, besides
	// SOFTHSM2_CONF.
	Env []string

	control *control
	memory  []byte
}

// BuildShim compiles the shim into the folder and makes its control file.
func BuildShim(dir string) (*Shim, error) {
	module, err := softhsm.Find()
	if err != nil {
		return nil, err
	}
	// The binding has the PKCS#11 headers.
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return nil, fmt.Errorf("find the PKCS#11 headers: %w", err)
	}
	s := &Shim{Module: filepath.Join(dir, "shim.so")}
	file := filepath.Join(dir, "shim.c")
	if err := os.WriteFile(file, source, 0o600); err != nil {
		return nil, err
	}
	gcc := exec.Command("gcc", "-shared", "-fPIC", "-O2", "-Wall", "-o", s.Module, "-I", strings.TrimSpace(string(out)), file, "-ldl")
	if out, err := gcc.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile the shim: %w\n%s", err, out)
	}
	controlFile := filepath.Join(dir, "shim.control")
	size := int(unsafe.Sizeof(control{}))
	f, err := os.OpenFile(controlFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(int64(size)); err != nil {
		return nil, err
	}
	if s.memory, err = unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, err
	}
	s.control = (*control)(unsafe.Pointer(&s.memory[0]))
	s.Env = []string{"HOLDFAST_SHIM_MODULE=" + module, "HOLDFAST_SHIM_CONTROL=" + controlFile}
	return s, nil
}

// Use has this process load the shim.
func (s *Shim) Use() error {
	var errs []error
	for _, e := range s.Env {
		name, value, _ := strings.Cut(e, "=")
		errs = append(errs, os.Setenv(name, value))
	}
	return errors.Join(errs...)
}

func index(function string) int {
	i := slices.Index(functions, function)
	if i < 0 {
		panic("the shim does not watch " + function)
	}
	return i
}

// SetDelay has each operation take so much longer, as a token that far away.
func (s *Shim) SetDelay(d time.Duration) { s.control.delay.Store(uint32(d.Microseconds())) }

// Fail has the next n calls of the function return the code.
func (s *Shim) Fail(function string, code uint, n int) {
	i := index(function)
	s.control.failCode[i].Store(uint32(code))
	s.control.failCount[i].Store(uint32(n))
}

// Cut takes the token away. Sessions of before are dead ever after.
func (s *Shim) Cut() {
	s.control.epoch.Add(1)
	s.control.cut.Store(1)
}

// Restore brings the token back.
func (s *Shim) Restore() { s.control.cut.Store(0) }

// Restart is Cut and Restore at once.
func (s *Shim) Restart() { s.control.epoch.Add(1) }

// Hang has calls of the function not come back until Release.
func (s *Shim) Hang(function string) { s.control.hang.Store(uint32(index(function)) + 1) }

// Release lets hanging calls go on.
func (s *Shim) Release() { s.control.hang.Store(0) }

// Calls counts the calls of the function so far.
func (s *Shim) Calls(function string) int { return int(s.control.called[index(function)].Load()) }

// AllCalls counts the calls of all functions so far.
func (s *Shim) AllCalls() int {
	n := 0
	for i := range s.control.called {
		n += int(s.control.called[i].Load())
	}
	return n
}

// Reset ends all interference.
func (s *Shim) Reset() {
	s.Release()
	s.Restore()
	s.SetDelay(0)
	for i := range s.control.failCount {
		s.control.failCount[i].Store(0)
	}
}
