package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a server that runs as a child, or one that ran before: load and
// server never share a process, so that what is measured of one is not the
// other's.
type process struct {
	name string
	// pid is 0 if it is not known, such as on another machine.
	pid int
	// cmd is nil if it is no child. It has no log then.
	cmd *exec.Cmd
	// began is when it was started.
	began time.Time
	log   string
	// gone is closed when the process has ended and is reaped.
	gone chan struct{}
}

// start runs a program whose standard error goes to a file, as a service
// manager would have it.
func start(name, log, program string, args ...string) (*process, error) {
	file, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer file.Close() // the child has its own
	p := &process{name: name, cmd: exec.Command(program, args...), log: log, gone: make(chan struct{})}
	p.cmd.Stderr = file
	// Ctrl-C is for this process, which then stops its children in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.began = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	p.pid = p.cmd.Process.Pid
	go func() {
		_ = p.cmd.Wait() // how it ended does not matter: who needs it sees that it is gone
		close(p.gone)
	}()
	return p, nil
}

// stopWithin is how long a server may take to shut down before it is killed.
const stopWithin = 15 * time.Second

// stop ends the process and waits until it is gone.
func (p *process) stop() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may be gone already
	select {
	case <-p.gone:
	case <-time.After(stopWithin):
		_ = p.cmd.Process.Kill()
		<-p.gone
	}
}

// explain adds the last line of the log, which mostly says why.
func (p *process) explain(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	if last := lastLine(p.log); last != "" {
		return fmt.Errorf("%s: %w; the last line it logged: %s", p.name, err, last)
	}
	return fmt.Errorf("%s: %w", p.name, err)
}

func lastLine(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	const tail = 4096
	if info, err := f.Stat(); err == nil && info.Size() > tail {
		_, _ = f.Seek(-tail, io.SeekEnd) // else it is read from the start
	}
	text, _ := io.ReadAll(io.LimitReader(f, tail))
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(lines[len(lines)-1])
}

// forgetLog empties the log: a line per request would fill the disk, and the
// kernel would write it back in the middle of the next measurement.
func (p *process) forgetLog() error {
	if p.cmd == nil {
		return nil
	}
	return os.Truncate(p.log, 0)
}

// clockTick is the unit of CPU times in /proc, the same on all of Go's Linux
// platforms (proc(5), USER_HZ).
const clockTick = 10 * time.Millisecond

// cpu is the CPU time that the process has used so far, with the processes that it has started, such as a PKCS#11
// module's. It is 0 if the process is not known.
func (p *process) cpu() (time.Duration, error) {
	if p.pid == 0 {
		return 0, nil
	}
	used, err := cpuOf(p.pid)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", p.name, err)
	}
	return used, nil
}

func cpuOf(pid int) (time.Duration, error) {
	// The clock of the process counts nanoseconds, where /proc has ticks of 10 ms. Its ID is
	// what clock_getcpuclockid(3) makes.
	const ofProcess = 2
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|ofProcess), &ts); err != nil {
		return 0, fmt.Errorf("the CPU time of process %d: %w", pid, err)
	}
	used := time.Duration(ts.Nano())
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	// The second field is the name in parentheses and may hold anything.
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 15 {
		return 0, errors.New("/proc has an unknown form of stat")
	}
	for _, ticks := range fields[13:15] { // of children that have ended, user and system
		n, err := strconv.ParseInt(ticks, 10, 64)
		if err != nil {
			return 0, err
		}
		used += time.Duration(n) * clockTick
	}
	lists, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task", "*", "children"))
	if err != nil {
		return 0, err
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // that thread has ended, and its children are another's
		}
		for _, child := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(child); err == nil {
				if more, err := cpuOf(n); err == nil { // else it has ended meanwhile
					used += more
				}
			}
		}
	}
	return used, nil
}

// ownCPU is the CPU time that this process has used: the generator's, while a server is under load.
func ownCPU() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		return 0 // the kernel has had that clock since Linux 2.6
	}
	return time.Duration(ts.Nano())
}

// memory is what the process has in memory now, and had at most, in KiB.
func (p *process) memory() (now, most int, err error) {
	text, err := p.proc("status")
	if err != nil {
		return 0, 0, err
	}
	find := func(field string) int {
		_, rest, _ := strings.Cut(text, "\n"+field+":")
		value, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
		n, _ := strconv.Atoi(value) // 0 is refused below
		return n
	}
	now, most = find("VmRSS"), find("VmHWM")
	if now == 0 || most == 0 {
		return 0, 0, fmt.Errorf("%s: /proc does not say how much memory it has: has it ended?", p.name)
	}
	return now, most, nil
}

func (p *process) proc(file string) (string, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.pid), file))
	if err != nil {
		return "", fmt.Errorf("%s: %w", p.name, err)
	}
	return string(text), nil
}
