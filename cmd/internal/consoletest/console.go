// Package consoletest is for tests of the programs that open the console in a browser. The
// same test looks at one appliance, or at a fleet behind a balancer that sends each request
// to another node: make test-fleet runs all of them so. A test is among them by its name,
// which has "Console" in it; a browser does not open for another.
package consoletest

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/cmd/internal/balancer"
	"holdfast/web/console/browsertest"
)

// Variable is the environment variable that has the number of nodes.
const Variable = "HOLDFAST_CONSOLE_NODES"

// Nodes is how many appliances the console of a test is to have.
func Nodes(t testing.TB) int {
	t.Helper()
	text := os.Getenv(Variable)
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 9 {
		t.Fatalf("%s is %q, and not a number of nodes", Variable, text)
	}
	return n
}

// Console is the console of an appliance, or of a fleet.
type Console struct {
	t testing.TB
	// origin is what the browser has, and address where it connects; the origin's if empty.
	origin, address string
	certificate     *x509.Certificate
	balancer        *balancer.Balancer // nil for one appliance
	known           chan string        // the nodes that the balancer knows

	mu     sync.Mutex
	served map[string]int // requests, by node; of each that was added
}

// New gives the console at the origin, "https://HOST:PORT"; an empty one is that of the
// console itself. Nodes are where appliances listen for administrators, host:port; with
// [Console.Join] there must be as many as [Nodes] says. What the browser asks a fleet for goes
// through a balancer, each request to another node.
func New(t testing.TB, origin string, nodes ...string) *Console {
	t.Helper()
	if Nodes(t) == 1 {
		return one(t, origin, nodes[0])
	}
	c := open(t, origin)
	c.known, c.served = make(chan string, 100), map[string]int{}
	c.balancer = balancer.New(balancer.Options{TLS: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // they are the test's own
		// A node that is slow on a busy machine is not dead: turns would shift.
		Every: 50 * time.Millisecond, Patience: time.Minute, Changed: func(node string, _ balancer.Health) { c.known <- node }})
	t.Cleanup(c.balancer.Close)
	requests := c.balancer.Requests(0, c.count)
	t.Cleanup(requests.Close)
	front := httptest.NewTLSServer(requests)
	t.Cleanup(front.Close)
	c.address, c.certificate = front.Listener.Addr().String(), front.Certificate()
	if c.origin == "" {
		c.origin = "https://" + c.address
	}
	c.Join(nodes...)
	return c
}

// Alone gives the console of one appliance also where others have fleets, and why.
func Alone(t testing.TB, origin, node, why string) *Console {
	t.Helper()
	if Nodes(t) > 1 {
		t.Logf("%s looks at one appliance alone: %s", t.Name(), why)
	}
	return one(t, origin, node)
}

func one(t testing.TB, origin, node string) *Console {
	t.Helper()
	c := open(t, origin)
	c.certificate = presented(t, node)
	if c.origin == "" {
		c.origin = "https://" + node
	}
	return c
}

func open(t testing.TB, origin string) *Console {
	t.Helper()
	if name, _, _ := strings.Cut(t.Name(), "/"); !strings.Contains(name, "Console") {
		t.Fatal(`a test that opens the console in a browser has "Console" in its name: make test-fleet runs those`)
	}
	return &Console{t: t, origin: origin}
}

// presented gives the certificate that a server presents.
func presented(t testing.TB, address string) *x509.Certificate {
	t.Helper()
	c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // to learn the certificate
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0]
}

// Join has more nodes behind the balancer.
func (c *Console) Join(nodes ...string) {
	c.t.Helper()
	for _, address := range nodes {
		c.mu.Lock()
		c.served[address] = 0
		c.mu.Unlock()
		c.balancer.Put(balancer.Node{Name: address, Addresses: []string{address}, Health: address})
	}
	unknown := slices.Clone(nodes)
	for patience := time.After(time.Minute); len(unknown) > 0; {
		select {
		case node := <-c.known:
			unknown = slices.DeleteFunc(unknown, func(name string) bool { return name == node })
		case <-patience:
			c.t.Fatalf("the nodes do not answer: %v", unknown)
		}
	}
}

func (c *Console) count(node string, _ *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.served[node]++
}

// AllServed fails the test unless as many nodes as [Nodes] says have answered requests.
func (c *Console) AllServed() {
	c.t.Helper()
	if c.balancer == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, requests := range c.served {
		if requests > 0 {
			n++
		}
	}
	if n != Nodes(c.t) {
		c.t.Errorf("%d nodes have answered, and not %d: %v", n, Nodes(c.t), c.served)
	}
}

// Browser opens a browser for the console.
func (c *Console) Browser() *browsertest.Browser {
	c.t.Helper()
	return browsertest.Start(c.t, c.origin, c.address, c.certificate)
}
