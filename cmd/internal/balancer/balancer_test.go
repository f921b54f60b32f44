package balancer_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/cmd/internal/balancer"
)

// node is a server that says its name, and whether it is ready.
type node struct {
	*httptest.Server
	name  string
	ready atomic.Bool
	hangs atomic.Bool
}

// bed is a balancer with nodes.
type bed struct {
	t       *testing.T
	b       *balancer.Balancer
	nodes   []*node
	url     string
	roots   *x509.CertPool
	changes chan string
}

// patience is more than a node takes to answer on a busy machine: one that counts as dead for a
// moment would shift whose turn it is.
const patience = 5 * time.Second

func newBed(t *testing.T, nodes int) *bed {
	t.Helper()
	d := &bed{t: t, roots: x509.NewCertPool(), changes: make(chan string, 100)}
	for i := range nodes {
		n := &node{name: fmt.Sprintf("node %d", i+1)}
		n.ready.Store(true)
		n.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case n.hangs.Load():
				<-r.Context().Done()
			case r.URL.Path == "/readyz" && !n.ready.Load():
				w.WriteHeader(http.StatusServiceUnavailable)
			default:
				fmt.Fprint(w, n.name)
			}
		}))
		t.Cleanup(n.Close)
		d.roots.AddCert(n.Certificate())
		d.nodes = append(d.nodes, n)
	}
	d.b = balancer.New(balancer.Options{TLS: d.tls(), Every: 50 * time.Millisecond,
		Patience: patience, Changed: func(node string, h balancer.Health) { d.changes <- node + " " + h.String() }})
	t.Cleanup(d.b.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- d.b.Serve(l, 0) }()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	d.url = "https://" + l.Addr().String()
	for _, n := range d.nodes {
		d.put(n)
	}
	return d
}

func (d *bed) tls() *tls.Config { return &tls.Config{RootCAs: d.roots, MinVersion: tls.VersionTLS12} }

func (d *bed) put(n *node) {
	address := n.Listener.Addr().String()
	d.b.Put(balancer.Node{Name: n.name, Addresses: []string{address}, Health: address})
	d.await(n.name + " ready")
}

// await waits for a change of health.
func (d *bed) await(want string) {
	d.t.Helper()
	for {
		select {
		case got := <-d.changes:
			if got == want {
				return
			}
		case <-time.After(time.Minute):
			d.t.Fatalf("it does not become: %s", want)
		}
	}
}

func (d *bed) client() *http.Client {
	t := &http.Transport{TLSClientConfig: d.tls()}
	d.t.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t, Timeout: time.Minute}
}

func (d *bed) ask(c *http.Client) (string, error) {
	res, err := c.Get(d.url)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return string(text), err
}

// count says how often each node answers so many new connections.
func (d *bed) count(n int) map[string]int {
	d.t.Helper()
	answers := map[string]int{}
	for range n {
		who, err := d.ask(d.client())
		if err != nil {
			d.t.Fatal(err)
		}
		answers[who]++
	}
	return answers
}

func (d *bed) want(answers map[string]int, want string) {
	d.t.Helper()
	if got := fmt.Sprint(answers); got != want {
		d.t.Errorf("got %s, want %s", got, want)
	}
}

// TestEachConnectionAnotherNode: and a connection that is kept stays with its node.
func TestEachConnectionAnotherNode(t *testing.T) {
	d := newBed(t, 3)
	d.want(d.count(9), "map[node 1:3 node 2:3 node 3:3]")
	c := d.client()
	first, err := d.ask(c)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if again, err := d.ask(c); err != nil || again != first {
			t.Errorf("%s, then %s: %v", first, again, err)
		}
	}
}

// TestNotReady: a node that says so gets no new connection, and keeps those that it has.
func TestNotReady(t *testing.T) {
	d := newBed(t, 3)
	kept := map[string]*http.Client{}
	for range 3 {
		c := d.client()
		who, err := d.ask(c)
		if err != nil {
			t.Fatal(err)
		}
		kept[who] = c
	}
	d.nodes[1].ready.Store(false)
	d.await("node 2 not ready")
	d.want(d.count(8), "map[node 1:4 node 3:4]")
	if who, err := d.ask(kept["node 2"]); err != nil || who != "node 2" {
		t.Errorf("the connection that there was: %s %v", who, err)
	}
	d.nodes[1].ready.Store(true)
	d.await("node 2 ready")
	d.want(d.count(3), "map[node 1:1 node 2:1 node 3:1]")
}

// TestDead: the connections of a node that does not answer are closed, whether it is gone
// or hangs; new ones go to the others. A node that comes back elsewhere is used again.
func TestDead(t *testing.T) {
	for name, die := range map[string]func(*node){
		"gone":  func(n *node) { n.Listener.Close() },
		"hangs": func(n *node) { n.hangs.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newBed(t, 3)
			raw := map[net.Conn]bool{}
			for range 3 {
				c, err := tls.Dial("tcp", d.url[len("https://"):], &tls.Config{RootCAs: d.roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				raw[c] = true
			}
			die(d.nodes[0])
			d.nodes[0].CloseClientConnections() // those of the checks, too
			d.await("node 1 dead")
			closed := make(chan bool, len(raw))
			for c := range raw {
				go func() {
					_, err := c.Read(make([]byte, 1))
					closed <- err != nil
				}()
			}
			if !<-closed {
				t.Error("the connection has an answer to nothing")
			}
			d.want(d.count(4), "map[node 2:2 node 3:2]")
			d.nodes[0] = newBed(t, 1).nodes[0]
			d.roots.AddCert(d.nodes[0].Certificate())
			d.put(d.nodes[0])
			d.want(d.count(3), "map[node 1:1 node 2:1 node 3:1]")
		})
	}
}

// TestNoneReady: nodes are tried all the same, since what they say is worth more than a
// connection that is refused.
func TestNoneReady(t *testing.T) {
	d := newBed(t, 2)
	for _, n := range d.nodes {
		n.ready.Store(false)
		d.await(n.name + " not ready")
	}
	if got := d.count(4); len(got) != 2 {
		t.Errorf("got %v", got)
	}
}

// TestClose ends connections and leaves nothing behind.
func TestClose(t *testing.T) {
	d := newBed(t, 1)
	c, err := tls.Dial("tcp", d.url[len("https://"):], &tls.Config{RootCAs: d.roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d.b.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is still there")
	}
	if who, err := d.ask(d.client()); err == nil {
		t.Errorf("%s answers through a balancer that is closed", who)
	}
}

// TestEachRequestAnotherNode: also on one connection. What a page loads beside it does not
// bring each page to the same node. A node that is not ready gets nothing.
func TestEachRequestAnotherNode(t *testing.T) {
	d := newBed(t, 3)
	var told []string
	requests := d.b.Requests(0, func(node string, r *http.Request) { told = append(told, node+" "+r.URL.Path) })
	defer requests.Close()
	front := httptest.NewTLSServer(requests)
	defer front.Close()
	ask := func(path, kind string) string {
		t.Helper()
		q, err := http.NewRequest(http.MethodGet, front.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Sec-Fetch-Dest", kind)
		res, err := front.Client().Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	pages := map[string]int{}
	for range 6 {
		pages[ask("/page", "document")]++
		ask("/app.css", "style")
		ask("/app.js", "script")
	}
	d.want(pages, "map[node 1:2 node 2:2 node 3:2]")
	if len(told) != 18 || told[0] != ask("/page", "document")+" /page" {
		t.Errorf("told: %v", told)
	}
	d.nodes[1].ready.Store(false)
	d.await("node 2 not ready")
	pages = map[string]int{}
	for range 4 {
		pages[ask("/page", "empty")]++
	}
	d.want(pages, "map[node 1:2 node 3:2]")
}

// TestRequestHost: the nodes see the name that the browser has, to which passkeys are bound.
func TestRequestHost(t *testing.T) {
	d := newBed(t, 0)
	host := make(chan string, 1)
	n := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/x" {
			host <- r.Host + "?" + r.URL.RawQuery
		}
	}))
	defer n.Close()
	d.roots.AddCert(n.Certificate())
	d.put(&node{Server: n, name: "node 1"})
	front := httptest.NewTLSServer(d.b.Requests(0, nil))
	defer front.Close()
	q, err := http.NewRequest(http.MethodGet, front.URL+"/x?a=b", nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Host = "console.example.com"
	res, err := front.Client().Do(q)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if got := <-host; got != "console.example.com?a=b" {
		t.Errorf("the node sees %q", got)
	}
}

// TestRequestsWithoutNodes is answered.
func TestRequestsWithoutNodes(t *testing.T) {
	w := httptest.NewRecorder()
	newBed(t, 0).b.Requests(0, nil).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != http.StatusBadGateway {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
