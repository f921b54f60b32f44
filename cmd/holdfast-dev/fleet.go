package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"holdfast/cmd/internal/balancer"
	"holdfast/cmd/internal/localpostgres"
)

// fleet is several appliances on this machine, each a process of its own, with their
// database and their balancer.
type fleet struct {
	*platform // what the nodes have in common
	o         options
	roots     *x509.CertPool
	database  *localpostgres.Server
	balancer  *balancer.Balancer
	at        place  // the balancer
	setupCode string // admits the first administrator
	nodes     []*fleetNode
}

// fleetNode is the process of a node.
type fleetNode struct {
	order  nodeOrder
	cmd    *exec.Cmd
	in     io.Closer // its end ends the node
	stderr *boundedText
	ended  chan struct{}
	err    error // how it ended; read it after that
	nodeReport
}

func (n *fleetNode) String() string { return fmt.Sprintf("node %d", n.order.Number) }

// fleetFolder is that of all that a fleet has, beside the state of one machine.
const fleetFolder = "fleet"

// runFleet starts database, balancer and nodes, gives the tour, and keeps the nodes running
// until ctx ends.
func runFleet(ctx context.Context, o options) (err error) {
	o.dir = filepath.Join(o.dir, fleetFolder)
	f := &fleet{o: o}
	if f.platform, err = preparePlatform(o.dir); err != nil {
		return err
	}
	unlock, err := lockFolder(f.dir, 0)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := f.settings(o); err != nil {
		return err
	}
	if f.roots, err = (devFile{CACert: f.caFile()}).roots(); err != nil {
		return err
	}
	began := time.Now()
	if f.database, err = localpostgres.Start(ctx, f.path("postgres"), "holdfast"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.database.Stop()) }()
	fmt.Println("Fleet:")
	showStep(fmt.Sprintf("PostgreSQL %d", f.database.Version), time.Since(began), f.database.Psql())
	closeBalancer, err := f.openBalancer()
	if err != nil {
		return err
	}
	defer closeBalancer()
	defer f.stopNodes()
	if err = f.startNodes(ctx); err == nil {
		err = f.tour(ctx)
	}
	if err != nil && ctx.Err() == nil {
		return err
	}
	f.supervise(ctx)
	f.stopNodes()
	_ = os.Remove(f.path("dev.json"))
	fmt.Println("stopped")
	return nil
}

// openBalancer has the balancer listen where one machine would.
func (f *fleet) openBalancer() (end func(), err error) {
	f.balancer = balancer.New(balancer.Options{TLS: &tls.Config{RootCAs: f.roots, MinVersion: tls.VersionTLS12}})
	var listeners []net.Listener
	end = func() {
		for _, l := range listeners {
			_ = l.Close() // nothing is lost with it
		}
		f.balancer.Close()
	}
	for index, at := range []struct{ flag, address string }{{"--xks-addr", f.o.xksAddr}, {"--admin-addr", f.o.adminAddr}} {
		l, err := net.Listen("tcp", at.address)
		if err != nil {
			end()
			return nil, fmt.Errorf("balancer: %w; choose another address with %s", err, at.flag)
		}
		listeners = append(listeners, l)
		go func() { _ = f.balancer.Serve(l, index) }() // it ends with the listener
	}
	_, port, err := net.SplitHostPort(listeners[1].Addr().String())
	f.at = place{xks: "https://" + localhost(listeners[0].Addr()), console: "https://" + net.JoinHostPort("localhost", port)}
	return end, err
}

// startNodes starts one after the other: the first one finds or makes the installation.
func (f *fleet) startNodes(ctx context.Context) error {
	if err := f.makeSetupCode(); err != nil {
		return err
	}
	for i := range f.o.nodes {
		n := &fleetNode{order: nodeOrder{Dir: f.dir, Number: i + 1, Config: f.o.config, Database: f.database.URL(),
			XKSURL: f.at.xks, ConsoleURL: f.at.console, SetupCode: f.path("setup-code.json")}}
		f.nodes = append(f.nodes, n)
		took, err := f.start(ctx, n)
		if err != nil {
			return err
		}
		showStep(n.String(), took, fmt.Sprintf("process %d, KMS's port %s, administrators' %s", n.cmd.Process.Pid, n.XKS, n.Admin))
	}
	f.at.socket = f.nodes[0].Socket
	fmt.Println()
	return nil
}

// makeSetupCode makes the code that any of the nodes accepts, and the file with its hash.
func (f *fleet) makeSetupCode() error {
	f.setupCode = rand.Text()
	sum := sha256.Sum256([]byte(f.setupCode))
	return writeJSONFile(f.path("setup-code.json"), struct {
		Holdfast int    `json:"holdfast"`
		Sum      string `json:"setup_code_sha256"`
	}{1, hex.EncodeToString(sum[:])})
}

// start starts the process of a node, and waits until it serves and the balancer knows it.
func (f *fleet) start(ctx context.Context, n *fleetNode) (took time.Duration, err error) {
	began := time.Now()
	out, err := n.launch()
	if err != nil {
		return 0, fmt.Errorf("%v: %w", n, err)
	}
	reports := make(chan nodeReport)
	read := make(chan struct{}) // its output is at its end
	go func() {
		defer close(read)
		defer close(reports)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var r nodeReport
			if json.Unmarshal(lines.Bytes(), &r) == nil {
				select {
				case reports <- r:
				case <-time.After(previousLife): // nobody wants more of them
				}
			}
		}
	}()
	go func() {
		<-read
		n.err = n.cmd.Wait()
		close(n.ended)
	}()
	if err := f.awaitServing(ctx, n, reports); err != nil {
		return 0, err
	}
	go func() {
		for range reports { // what it says later is in its log
		}
	}()
	f.balancer.Put(balancer.Node{Name: n.String(), Addresses: []string{n.XKS, n.Admin}, Health: n.Admin})
	for f.balancer.Health(n.String()) != balancer.Ready {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-n.ended:
			return 0, n.failure()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return time.Since(began), nil
}

// launch starts the process, which keeps out of the terminal's Ctrl-C.
func (n *fleetNode) launch() (out io.Reader, err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	order, err := json.Marshal(n.order)
	if err != nil {
		return nil, err
	}
	n.cmd, n.ended, n.stderr = exec.Command(exe, "--node"), make(chan struct{}), new(boundedText)
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	n.cmd.Stderr = n.stderr
	in, err := n.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	n.in = in
	if out, err = n.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := n.cmd.Start(); err != nil {
		return nil, err
	}
	_, err = in.Write(append(order, '\n'))
	return out, err
}

// nodePatience is how long a node may take until it serves.
const nodePatience = 2 * time.Minute

func (f *fleet) awaitServing(ctx context.Context, n *fleetNode, reports <-chan nodeReport) error {
	late := time.NewTimer(nodePatience)
	defer late.Stop()
	for {
		select {
		case r, more := <-reports:
			if !more {
				<-n.ended
				return n.failure()
			}
			if n.nodeReport = r; r.Boot.Serves() {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			return fmt.Errorf("%s: %v is locked: %s", f.dir, n, n.reason())
		}
	}
}

// failure is why the process of a node has ended.
func (n *fleetNode) failure() error {
	said := strings.TrimSpace(n.stderr.String())
	if said == "" {
		said = fmt.Sprint(n.err)
	}
	return fmt.Errorf("%v has ended: %s", n, strings.ReplaceAll(said, "\n", "; "))
}

// kill ends the process at once.
func (n *fleetNode) kill() {
	_ = n.cmd.Process.Kill()
	<-n.ended
}

// stopNodes ends all nodes as a service manager does.
func (f *fleet) stopNodes() {
	for _, n := range f.nodes {
		if n.in != nil {
			_ = n.in.Close()
		}
	}
	for _, n := range f.nodes {
		if n.cmd == nil || n.cmd.Process == nil {
			continue
		}
		select {
		case <-n.ended:
		case <-time.After(previousLife):
			n.kill()
		}
	}
	f.nodes = nil
}

// supervise starts nodes that end again, as a service manager does, until ctx ends.
func (f *fleet) supervise(ctx context.Context) {
	ended := make(chan *fleetNode)
	var watching sync.WaitGroup
	defer watching.Wait()
	watch := func(n *fleetNode) {
		watching.Go(func() {
			select {
			case <-ctx.Done():
			case <-n.ended:
				select {
				case <-ctx.Done():
				case ended <- n:
				}
			}
		})
	}
	for _, n := range f.nodes {
		watch(n)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-ended:
			fmt.Printf("%v; it is started again\n", n.failure())
			took, err := f.start(ctx, n)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				fmt.Println(err)
				continue
			}
			fmt.Printf("%v serves again after %v, as process %d\n", n, took.Round(time.Millisecond), n.cmd.Process.Pid)
			watch(n)
		}
	}
}

// boundedText keeps the beginning of what a process prints.
type boundedText struct {
	mu   sync.Mutex
	text []byte
}

func (b *boundedText) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.text) < 1<<16 {
		b.text = append(b.text, p...)
	}
	return len(p), nil
}

func (b *boundedText) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}
