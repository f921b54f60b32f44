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
	// origin is what the browser has, and address where it connects; none if empty.
	origin, address string
	certificate     *x509.Certificate

	mu     sync.Mutex
	served map[string]int // pages, by node
}

// New gives the console at the origin, "https://HOST:PORT". The nodes are where appliances
// listen for administrators, host:port: as many as [Nodes] says. With more than one, what the
// browser asks the origin for goes through a balancer, each request to another node.
func New(t testing.TB, origin string, nodes ...string) *Console {
	t.Helper()
	if want := Nodes(t); len(nodes) != want {
		t.Fatalf("the console has %d nodes, and %s says %d", len(nodes), Variable, want)
	}
	if name, _, _ := strings.Cut(t.Name(), "/"); !strings.Contains(name, "Console") {
		t.Fatal(`a test that opens the console in a browser has "Console" in its name: make test-fleet runs those`)
	}
	c := &Console{t: t, origin: origin, certificate: presented(t, nodes[0]), served: map[string]int{}}
	if len(nodes) > 1 {
		c.balance(nodes)
	}
	return c
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

// balance puts the balancer in front of the nodes, and waits until it knows them.
func (c *Console) balance(nodes []string) {
	c.t.Helper()
	roots := x509.NewCertPool()
	for _, address := range nodes {
		roots.AddCert(presented(c.t, address))
	}
	asked := make(chan bool, 100)
	b := balancer.New(balancer.Options{TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, Changed: func(string, balancer.Health) { asked <- true }})
	c.t.Cleanup(b.Close)
	requests := b.Requests(0, c.count)
	c.t.Cleanup(requests.Close)
	for _, address := range nodes {
		b.Put(balancer.Node{Name: address, Addresses: []string{address}, Health: address})
	}
	for range nodes {
		select {
		case <-asked:
		case <-time.After(time.Minute):
			c.t.Fatal("a node does not answer")
		}
	}
	front := httptest.NewTLSServer(requests)
	c.t.Cleanup(front.Close)
	c.address, c.certificate = front.Listener.Addr().String(), front.Certificate()
	c.t.Cleanup(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.served) != len(nodes) {
			c.t.Errorf("of %d nodes %d have answered: %v", len(nodes), len(c.served), c.served)
		}
	})
}

func (c *Console) count(node string, _ *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.served[node]++
}

// Browser opens a browser for the console.
func (c *Console) Browser() *browsertest.Browser {
	c.t.Helper()
	return browsertest.Start(c.t, c.origin, c.address, c.certificate)
}
