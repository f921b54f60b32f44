package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/appliance/config"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/cmd/internal/daemon"
	"holdfast/cmd/internal/modules"
	"holdfast/cmd/internal/terminal"
	"holdfast/hsm/softhsm"
)

// nodeOrder is what the process of a fleet tells that of a node, as the first line of its
// input. The end of the input ends the node, so that none outlives the fleet.
type nodeOrder struct {
	Dir    string // of the fleet
	Number int    // from 1
	Config string // the file to begin from; none if empty
	// Database is the URL of the fleet's database.
	Database string
	// XKSURL and ConsoleURL are those of the balancer.
	XKSURL, ConsoleURL string
	// SetupCode is a file with the hash of the setup code.
	SetupCode string
}

// nodeReport is what a node tells the fleet, a line for each state of its boot.
type nodeReport struct {
	Boot progress.Status
	// XKS and Admin are where it listens, host:port.
	XKS, Admin, Socket string
	// SetupOpen says whether the first administrator is awaited.
	SetupOpen bool
}

// nodeGrace is fleet.grace here: the shortest that there is, for those who watch.
const nodeGrace = config.Duration(10 * time.Second)

func nodeName(n int) string { return fmt.Sprintf("node%d", n) }

// beNode is the process of a node. It gives the exit code.
func beNode() int {
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	var order nodeOrder
	if err == nil {
		err = json.Unmarshal(line, &order)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "holdfast-dev: --node is for holdfast-dev itself: use --nodes 3")
		return 2
	}
	ctx, end := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer end()
	go func() {
		_, _ = io.Copy(io.Discard, in)
		end()
	}()
	if err := runNode(ctx, order); err != nil {
		fmt.Fprintln(os.Stderr, terminal.Lines(err.Error()))
		return 1
	}
	return 0
}

// runNode is run for a node.
func runNode(ctx context.Context, order nodeOrder) error {
	p, err := order.platform()
	if err != nil {
		return err
	}
	unlock, err := lockFolder(p.dir, previousLife)
	if err != nil {
		return err
	}
	defer unlock()
	cfg, _, err := p.loadConfig(order.Config)
	if err != nil {
		return err
	}
	o := options{release: config.Sealed, xksAddr: "127.0.0.1:0", adminAddr: "127.0.0.1:0"}
	p.configure(cfg, o)
	cfg.State.Database = order.Database
	if cfg.Fleet.Grace == 0 {
		cfg.Fleet.Grace = nodeGrace
	}
	cfg.XKS.URL, cfg.Admin.URL, cfg.Admin.SetupCode = order.XKSURL, order.ConsoleURL, order.SetupCode
	log, closeLog, err := p.openLog(cfg)
	if err != nil {
		return err
	}
	defer closeLog()
	stop, err := p.start(cfg, o, log.Logger)
	if err != nil {
		return err
	}
	defer stop()
	r := &nodeReporter{out: json.NewEncoder(os.Stdout)}
	return daemon.Run(ctx, daemon.Options{Modules: modules.For(modules.Secrets(cfg)...), Config: cfg, Log: log.Logger, LogDropped: log.Dropped, Platform: p.machine, Changed: r.changed, Setup: r.setup})
}

// platform gives that of the node. The fleet's process has made all that is shared.
func (order nodeOrder) platform() (*platform, error) {
	shared := &platform{dir: order.Dir, common: order.Dir}
	var err error
	if shared.module, err = softhsm.Find(); err != nil {
		return nil, err
	}
	if err := softhsm.Use(shared.shared("token")); err != nil {
		return nil, err
	}
	return shared.node(order.Number)
}

// nodeReporter tells the fleet's process what the boot says.
type nodeReporter struct {
	mu   sync.Mutex
	out  *json.Encoder
	last nodeReport
}

func (r *nodeReporter) changed(s progress.Status, a daemon.Addresses) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last.Boot, r.last.XKS, r.last.Admin, r.last.Socket = s, localhost(a.XKS), localhost(a.Admin), a.Socket
	_ = r.out.Encode(r.last) // without a reader the input has ended as well
}

func (r *nodeReporter) setup(string, string, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last.SetupOpen = true; r.last.XKS != "" {
		_ = r.out.Encode(r.last)
	}
}

// previousLife is how long a node waits for the one before it, which its fleet has left, to
// end.
const previousLife = 30 * time.Second

var errFolderInUse = errors.New("another process of holdfast-dev uses it; stop that first")

// lockFolder lets one process at a time use a folder.
func lockFolder(dir string, patience time.Duration) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || !time.Now().Before(end) {
			break
		}
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = errFolderInUse
	}
	return nil, errors.Join(fmt.Errorf("state folder %s: %w", dir, err), f.Close())
}

// reason is why a node does not serve, on one line.
func (r nodeReport) reason() string {
	return r.Boot.Code + ": " + strings.ReplaceAll(r.Boot.Reason, "\n", "; ")
}
