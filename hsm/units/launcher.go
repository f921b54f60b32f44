package units

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"sync"

	"holdfast/hsm/process"
)

// Socket is where the manager listens, Sockets the folder of the sockets of the units.
const (
	Socket  = "/run/holdfast-units.socket"
	Sockets = "/run/holdfast-module"
)

// Member is what the units of a member are to allow.
type Member struct {
	// Number counts members from 1.
	Number int `json:"number"`
	// Addresses are the networks with which they may exchange packets.
	Addresses []netip.Prefix `json:"addresses"`
	// Write has the files and folders that they may change.
	Write []string `json:"write"`
	// MemoryBytes bounds the memory of all processes of a unit.
	MemoryBytes uint64 `json:"memory_bytes"`
	// Settings are for the module process.
	Settings json.RawMessage `json:"settings"`
}

// instances are the member's units. While a process is replaced, two run.
func (m Member) instances() []string {
	return []string{fmt.Sprintf("%d-a", m.Number), fmt.Sprintf("%d-b", m.Number)}
}

// Pool has the units of a machine. Whoever starts processes of the same member must know of each other.
type Pool struct {
	mu    sync.Mutex
	units map[int]*process.Unit
}

// Launcher gives what starts the module processes of a member. Nothing is asked before the first is started.
func (p *Pool) Launcher(m Member) *Launcher {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.units == nil {
		p.units = map[int]*process.Unit{}
	}
	if p.units[m.Number] == nil {
		var sockets []string
		for _, name := range m.instances() {
			sockets = append(sockets, filepath.Join(Sockets, name))
		}
		p.units[m.Number] = process.NewUnit(0, sockets...)
	}
	return &Launcher{member: m, manager: Socket, unit: p.units[m.Number]}
}

// Launcher starts the module processes of a member in its units.
type Launcher struct {
	member  Member
	manager string
	unit    *process.Unit

	mu       sync.Mutex
	prepared bool
}

// Start has the units prepared, and starts a process ([process.Unit]).
func (l *Launcher) Start(ctx context.Context, name string, connections int) (process.Process, error) {
	if err := l.prepare(ctx); err != nil {
		return nil, fmt.Errorf("the units of %s are not prepared: %w", name, err)
	}
	return l.unit.Start(ctx, name, connections)
}

func (l *Launcher) prepare(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.prepared {
		return nil
	}
	err := ask(ctx, l.manager, l.member)
	l.prepared = err == nil
	return err
}

// maxQuestion bounds what is said to the manager, and by it, in bytes.
const maxQuestion = 64 << 10

// answer is what the manager says: nothing if it is done.
type answer struct {
	Error string `json:"error,omitempty"`
}

func ask(ctx context.Context, manager string, m Member) error {
	question, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(question) > maxQuestion {
		return fmt.Errorf("they have %d bytes of settings, more than %d; name folders in place of files", len(question), maxQuestion)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", manager)
	if err != nil {
		return fmt.Errorf("%w: is holdfast-units.socket active? hsm.process.unit is for machines that have the image's units", err)
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	// The question ends with its line, and not with the connection's half: the manager would take who has
	// closed that for gone.
	var text []byte
	if _, err = c.Write(append(question, '\n')); err == nil {
		text, err = io.ReadAll(io.LimitReader(c, maxQuestion))
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("ask for them: %w", err)
	}
	var a answer
	if err := json.Unmarshal(text, &a); err != nil {
		return errors.New("holdfast-units.service ended without an answer; the machine's console says why")
	}
	if a.Error != "" {
		return errors.New(a.Error)
	}
	return nil
}
