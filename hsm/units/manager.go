package units

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"holdfast/hsm/process"
)

// Manager prepares units. It is root's.
type Manager struct {
	// Units is the folder of units that do not outlive the machine's start, /run/systemd/system; Settings the one of
	// what module processes are told, from where each unit takes its own.
	Units, Settings string
	// Systemctl runs systemctl with those arguments.
	Systemctl func(ctx context.Context, arguments ...string) error
}

// Answer does what is asked on a connection, and says there how it went. The error is for the log.
func (m Manager) Answer(ctx context.Context, c *net.UnixConn) error {
	defer func() { _ = c.Close() }()
	err := m.answer(ctx, c)
	var a answer
	if err != nil {
		a.Error = err.Error()
	}
	text, _ := json.Marshal(a) // a string
	_, werr := c.Write(text)
	return errors.Join(err, werr)
}

func (m Manager) answer(ctx context.Context, c io.Reader) error {
	text, err := bufio.NewReader(io.LimitReader(c, maxQuestion+1)).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("what is asked for has no end within %d bytes: %w", maxQuestion, err)
	}
	wanted, err := read(text)
	if err != nil {
		return fmt.Errorf("what is asked for cannot be taken: %w", err)
	}
	return m.prepare(ctx, wanted)
}

// The bounds of what a member may be.
const (
	maxMembers   = 64
	maxAddresses = 256
	leastMemory  = 128 << 20
)

// path is what can stand in a unit without quotes: systemd would take other characters for more than one.
var path = regexp.MustCompile(`^/[A-Za-z0-9._/@:+-]+$`)

func read(text []byte) (w Member, err error) {
	if len(text) > maxQuestion {
		return w, fmt.Errorf("it has more than %d bytes", maxQuestion)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&w); err != nil {
		return w, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return w, errors.New("something stands behind it")
	}
	if w.Number < 1 || w.Number > maxMembers {
		return w, fmt.Errorf("member %d: they count from 1 to %d", w.Number, maxMembers)
	}
	if len(w.Addresses) > maxAddresses {
		return w, fmt.Errorf("%d addresses: there may be %d; name networks in their place", len(w.Addresses), maxAddresses)
	}
	for _, a := range w.Addresses {
		if !a.IsValid() || a.Addr().Zone() != "" {
			return w, errors.New("an address is neither one of IPv4 nor of IPv6")
		}
	}
	for _, p := range w.Write {
		if !path.MatchString(p) || filepath.Clean(p) != p {
			return w, fmt.Errorf("hsm.process.write: a unit can name %q only without spaces and special characters; rename it", p)
		}
	}
	if w.MemoryBytes < leastMemory {
		return w, fmt.Errorf("%d bytes of memory: a module needs %d", w.MemoryBytes, leastMemory)
	}
	if len(w.Settings) == 0 {
		return w, errors.New("settings are missing")
	}
	return w, nil
}

// unit is what a member's units have besides their template.
func unit(w Member) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "[Service]\nUser=holdfast-module-%d\nMemoryMax=%d\n", w.Number, w.MemoryBytes)
	for _, a := range w.Addresses {
		fmt.Fprintf(&b, "IPAddressAllow=%s\n", a.Masked())
	}
	for _, p := range w.Write {
		fmt.Fprintf(&b, "ReadWritePaths=-%s\n", p) // the process says what is not there
	}
	return []byte(b.String())
}

// prepare writes what the units need, and has systemd read it and listen for connections.
func (m Manager) prepare(ctx context.Context, w Member) error {
	changed := false
	var sockets, services []string
	for _, name := range w.instances() {
		folder := filepath.Join(m.Units, "holdfast-module@"+name+".service.d")
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
		for file, text := range map[string][]byte{filepath.Join(folder, "50-member.conf"): unit(w), filepath.Join(m.Settings, name+".json"): w.Settings} {
			if before, err := os.ReadFile(file); err == nil && bytes.Equal(before, text) {
				continue
			}
			changed = true
			if err := replace(file, text); err != nil {
				return err
			}
		}
		sockets, services = append(sockets, "holdfast-module@"+name+".socket"), append(services, "holdfast-module@"+name+".service")
	}
	if changed {
		if err := m.Systemctl(ctx, "daemon-reload"); err != nil {
			return err
		}
		if err := m.Systemctl(ctx, append([]string{"stop"}, services...)...); err != nil { // with the settings of before
			return err
		}
	}
	return m.Systemctl(ctx, append([]string{"start"}, sockets...)...)
}

// Ended writes how the process of a unit ended, where the appliance reads it: beside the unit's socket in
// that folder. The words are systemd's, of ExecStopPost= (SERVICE_RESULT, EXIT_CODE and EXIT_STATUS in systemd.exec(5)).
func Ended(sockets, name, result, code, status string) error {
	if !instance.MatchString(name) {
		return fmt.Errorf("%.40q is no unit of a module process", name)
	}
	var end process.End
	switch {
	case result == "success", result == "exit-code":
		end = process.End{Cause: process.Exited, Says: "it exited by itself, with status " + status}
	case (result == "signal" || result == "core-dump") && slices.Contains(process.Crashes(), "SIG"+status):
		end = process.End{Cause: process.Crashed, Says: "it crashed: signal SIG" + status}
	case result == "signal", result == "core-dump":
		end = process.End{Cause: process.Killed, Says: fmt.Sprintf("signal SIG%s ended it, which the kernel or another process sent", status)}
	case result == "watchdog":
		end = process.End{Cause: process.Stopped, Says: "it did not answer its unit's watchdog, as if a signal had stopped it, and was ended"}
	case result == "oom-kill":
		end = process.End{Cause: process.Killed, Says: "the kernel ended it, as its unit was out of memory (MemoryMax=); hsm.process.memory_mib raises that"}
	case result == "timeout":
		end = process.End{Cause: process.Killed, Says: "it did not end in time, and was ended"}
	default: // such as resources: it was not started
		end = process.End{Cause: process.Ended, Says: fmt.Sprintf("its unit ended with %q (%s %s)", result, code, status)}
	}
	file := filepath.Join(sockets, name+process.EndSuffix)
	if err := replace(file, fmt.Appendf(nil, "%s %s\n", end.Cause, end.Says)); err != nil {
		return err
	}
	return os.Chmod(file, 0o644) // the appliance is another user
}

var instance = regexp.MustCompile(`^[1-9][0-9]?-[ab]$`)

// replace puts a file there whole.
func replace(file string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".new-")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Chmod(0o600), f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
