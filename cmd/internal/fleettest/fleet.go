// Package fleettest runs a whole fleet for tests, of real processes: PostgreSQL, nodes that
// are holdfastd with a TPM and a sealed PIN each, on one token, and a load balancer, through
// which AWS KMS calls. A test can kill, pause and cut off each part. The program holdfastd
// must be on the path (testscript.Main).
package fleettest

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/postgres/postgrestest"
	"holdfast/cmd/internal/balancer"
	"holdfast/cmd/internal/kmsload"
	"holdfast/cmd/internal/sitetest"
	"holdfast/hsm/hsmtest"
	"holdfast/web"
	"holdfast/web/operation"
)

// Options are what differs between fleets.
type Options struct {
	Nodes int // 3 if zero
	// Grace is fleet.grace; the shortest that there is if zero.
	Grace time.Duration
	// Replica has the database have a replica that can be promoted. The nodes' URL names
	// both.
	Replica bool
	// Settings are PostgreSQL's.
	Settings []string
}

// Fleet is one that runs. [Start] starts one.
type Fleet struct {
	Nodes []*Node
	// Primary and Replica are the servers of the database, whose name is Database.
	Primary, Replica *postgrestest.Server
	Database         string
	Balancer         *balancer.Balancer
	// XKS and Admin are where the balancer listens, host:port.
	XKS, Admin string
	// Roots verify the nodes' certificates.
	Roots *x509.CertPool

	t          testing.TB
	credential operation.NewCredential
}

// Node is one of the fleet.
type Node struct {
	*sitetest.Site
	Name string
	// Server is its process, nil before the first start.
	Server *sitetest.Server
	// ToDatabase are its wires to the servers of the database; ToNode is the other nodes'
	// to it.
	ToDatabase []*Wire
	ToNode     *Wire
	// HSM cuts it off from the token.
	HSM *hsmtest.Shim

	fleet       *Fleet
	certificate *x509.Certificate
	admin       *web.Client
}

// What the fleet serves: a key store with a credential, and a grant for everybody.
const (
	KeyStore = "prod"
	prefix   = "/prod"
)

// ShortestGrace is the shortest that fleet.grace can be.
const ShortestGrace = 10 * time.Second

// Start starts a fleet and waits until all nodes serve.
func Start(t testing.TB, o Options) *Fleet {
	t.Helper()
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	f := &Fleet{t: t, Roots: x509.NewCertPool(), Primary: postgrestest.Start(t, o.Settings...)}
	if o.Replica {
		f.Replica = f.Primary.Replica()
	}
	f.Database = f.Primary.NewDatabase(t)
	for i := range o.Nodes {
		f.Nodes = append(f.Nodes, f.newNode(i, o))
	}
	f.listen()
	for _, n := range f.Nodes {
		n.Start()
	}
	f.prepare()
	return f
}

func (f *Fleet) newNode(i int, o Options) *Node {
	f.t.Helper()
	dir := filepath.Join(f.t.TempDir(), fmt.Sprintf("n%d", i+1))
	shim := filepath.Join(dir, "shim")
	if err := os.MkdirAll(shim, 0o700); err != nil {
		f.t.Fatal(err)
	}
	n := &Node{Name: fmt.Sprintf("node %d", i+1), fleet: f, ToNode: NewWire(f.t, "")}
	var err error
	if n.HSM, err = hsmtest.BuildShim(shim); err != nil {
		f.t.Fatal(err)
	}
	servers := []*postgrestest.Server{f.Primary}
	if f.Replica != nil {
		servers = append(servers, f.Replica)
	}
	var hosts []string
	for _, s := range servers {
		_, port, err := net.SplitHostPort(s.Address())
		if err != nil {
			f.t.Fatal(err)
		}
		w := NewWire(f.t, net.JoinHostPort("127.0.0.1", port))
		n.ToDatabase = append(n.ToDatabase, w)
		hosts = append(hosts, "localhost:"+w.Port()) // as the server's certificate says
	}
	so := sitetest.Options{Module: n.HSM.Module, Fleet: []string{fmt.Sprintf("address = %q", n.ToNode.Address)},
		State: []string{fmt.Sprintf("database = %q", fmt.Sprintf("postgres://%s@%s/%s", postgrestest.User, strings.Join(hosts, ","), f.Database)),
			fmt.Sprintf("database_ca = %q", f.Primary.TLS.CA), fmt.Sprintf("database_password_file = %q", f.Primary.TLS.PasswordFile)}}
	so.Fleet = append(so.Fleet, fmt.Sprintf("grace = %q", cmp.Or(o.Grace, ShortestGrace)))
	if i > 0 {
		so.Token = f.Nodes[0].Site
	}
	n.Site = sitetest.NewWith(f.t, dir, so)
	n.admin = web.NewClient(n.Socket)
	f.trust(n)
	return n
}

// trust has the roots verify a node.
func (f *Fleet) trust(n *Node) {
	text, err := os.ReadFile(n.CA)
	if err != nil {
		f.t.Fatal(err)
	}
	f.Roots.AppendCertsFromPEM(text)
	pair, err := tls.LoadX509KeyPair(n.CA, filepath.Join(n.Dir, "server-key.pem"))
	if err != nil {
		f.t.Fatal(err)
	}
	n.certificate = pair.Leaf
}

func (f *Fleet) listen() {
	f.Balancer = balancer.New(balancer.Options{TLS: f.tls()})
	f.t.Cleanup(f.Balancer.Close)
	for i, address := range []*string{&f.XKS, &f.Admin} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			f.t.Fatal(err)
		}
		*address = l.Addr().String()
		f.t.Cleanup(func() { _ = l.Close() }) // nothing is lost with it
		go func() { _ = f.Balancer.Serve(l, i) }()
	}
}

func (f *Fleet) tls() *tls.Config { return &tls.Config{RootCAs: f.Roots, MinVersion: tls.VersionTLS12} }

// prepare makes what the fleet serves, at the first node, and waits for it at all.
func (f *Fleet) prepare() {
	f.t.Helper()
	f.credential = operation.NewCredential{AccessKeyID: strings.Repeat("A", 20), SecretAccessKey: strings.Repeat("s", 43)}
	first := f.Nodes[0]
	first.Do(http.MethodPost, operation.NewKeyStore{Name: KeyStore, URIPathPrefix: prefix}, nil, "keystores")
	first.Do(http.MethodPost, f.credential, nil, "keystores", KeyStore, "credentials")
	first.Do(http.MethodPost, operation.NewGrant{Principal: appliance.AnyPrincipal,
		Operations: []appliance.Operation{appliance.OpEncrypt, appliance.OpDecrypt, appliance.OpGetAttributes}}, nil, "keystores", KeyStore, "grants")
}

// NewKey makes a key at the first node, and waits until all nodes that run serve it.
func (f *Fleet) NewKey(id string, custody appliance.Custody) {
	f.t.Helper()
	f.Nodes[0].Do(http.MethodPost, operation.NewKey{ID: id, Usage: appliance.Usage{Encrypt: true, Decrypt: true}, Custody: custody}, nil, "keystores", KeyStore, "keys")
	for _, n := range f.Nodes {
		if n.Running() {
			n.Await("serves "+id, func() bool { _, err := n.Ask(id); return err == nil })
		}
	}
}

// Block blocks a key at a node, which must succeed.
func (n *Node) Block(key string) {
	n.fleet.t.Helper()
	if err := n.TryBlock(key); err != nil {
		n.fleet.t.Fatalf("%s: %v", n.Name, err)
	}
}

// TryBlock is Block for what may fail.
func (n *Node) TryBlock(key string) error {
	return n.Try(http.MethodPost, operation.NewBlock{BlockTarget: appliance.BlockTarget{KeyStore: KeyStore, KeyID: key}, Reason: "a test"}, nil, "block")
}

// TryUnblock takes a block back at a node.
func (n *Node) TryUnblock(key string) error {
	return n.Try(http.MethodPost, appliance.BlockTarget{KeyStore: KeyStore, KeyID: key}, nil, "unblock")
}

// Do calls the admin API by the node's socket, which must succeed.
func (n *Node) Do(method string, in, out any, route ...string) {
	n.fleet.t.Helper()
	if err := n.Try(method, in, out, route...); err != nil {
		n.fleet.t.Fatalf("%s: %s %v: %v", n.Name, method, route, err)
	}
}

// Try is Do for what may fail.
func (n *Node) Try(method string, in, out any, route ...string) error {
	return n.admin.Do(n.fleet.t.Context(), method, web.Path(route...), in, out)
}

// Start starts the node, and waits until it serves and the balancer sends it requests.
func (n *Node) Start() {
	t := n.fleet.t
	t.Helper()
	n.Server = n.Site.Start(t)
	n.ToNode.To(n.Server.Admin)
	n.fleet.Balancer.Put(balancer.Node{Name: n.Name, Addresses: []string{n.Server.XKS, n.Server.Admin}, Health: n.Server.Admin})
	n.Await("is ready", func() bool { return n.fleet.Balancer.Health(n.Name) == balancer.Ready })
}

// Running says whether the node's process runs.
func (n *Node) Running() bool {
	select {
	case <-n.Server.Ended:
		return false
	default:
		return true
	}
}

// Kill ends the node's process at once.
func (n *Node) Kill() {
	_ = n.Server.Cmd.Process.Kill() // it may have ended
	<-n.Server.Ended
}

// CutDatabase cuts the node off from the database, until [Node.HealDatabase].
func (n *Node) CutDatabase() {
	for _, w := range n.ToDatabase {
		w.Cut()
	}
}

// HealDatabase ends what CutDatabase began.
func (n *Node) HealDatabase() {
	for _, w := range n.ToDatabase {
		w.Heal()
	}
}

// CutPeers has no node reach another, until [Fleet.HealPeers].
func (f *Fleet) CutPeers() {
	for _, n := range f.Nodes {
		n.ToNode.Cut()
	}
}

// HealPeers ends what CutPeers began.
func (f *Fleet) HealPeers() {
	for _, n := range f.Nodes {
		n.ToNode.Heal()
	}
}

// Patience is how long [Node.Await] waits. A machine that is busy is slow.
const Patience = time.Minute

// Await waits until something is so at the node, and gives how long that took.
func (n *Node) Await(what string, so func() bool) time.Duration {
	t := n.fleet.t
	t.Helper()
	began := time.Now()
	for !so() {
		if time.Since(began) > Patience {
			log := n.Server.Log.String()
			t.Fatalf("%s: not within %v: %s\n…%s", n.Name, Patience, what, log[max(0, len(log)-3000):])
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}

// Position is how far the node is in the log, as it says itself.
func (n *Node) Position() (p appliance.Position, err error) {
	var s appliance.FleetStatus
	if err := n.Try(http.MethodGet, nil, &s, "fleet"); err != nil {
		return p, err
	}
	for _, of := range s.Nodes {
		if of.ID == s.Node {
			return of.Position, nil
		}
	}
	return p, fmt.Errorf("%s does not know itself", n.Name)
}

// KMS makes a client that is AWS KMS and calls through the balancer.
func (f *Fleet) KMS(timeout time.Duration) *kmsload.Client { return f.client(f.XKS, timeout) }

func (f *Fleet) client(host string, timeout time.Duration) *kmsload.Client {
	return f.clientOf(host, prefix, f.credential, timeout)
}

func (f *Fleet) clientOf(host, prefix string, c operation.NewCredential, timeout time.Duration) *kmsload.Client {
	return kmsload.New("https://"+host+prefix+appliance.XKSPath, c.AccessKeyID, string(c.SecretAccessKey), f.Roots, timeout)
}

// Asked is what [Node.Ask] has encrypted.
const Asked = "x"

// Ask has KMS encrypt at this node.
func (n *Node) Ask(key string) (*kmsload.Answer, error) {
	return n.AskAs(prefix, n.fleet.credential, key)
}

// AskAs has KMS encrypt at this node, by a key store's URI path prefix and credential.
func (n *Node) AskAs(prefix string, c operation.NewCredential, key string) (*kmsload.Answer, error) {
	k := n.fleet.clientOf(n.Server.XKS, prefix, c, 5*time.Second)
	defer k.HTTP.CloseIdleConnections()
	return k.Encrypt(n.fleet.t.Context(), key, "asked", []byte(Asked), nil)
}

// AskDecrypt has KMS decrypt at this node what Ask has answered, of any node.
func (n *Node) AskDecrypt(key string, sealed *kmsload.Answer) (*kmsload.Answer, error) {
	k := n.fleet.client(n.Server.XKS, 5*time.Second)
	defer k.HTTP.CloseIdleConnections()
	return k.Decrypt(n.fleet.t.Context(), key, "asked", sealed, nil)
}

// Refuses says whether KMS gets that error of the specification at this node.
func (n *Node) Refuses(key, name string) bool {
	_, err := n.Ask(key)
	r, ok := err.(*kmsload.Refusal)
	return ok && r.Name == name
}

// Ready gives what /readyz says, and whether that is that the node is ready.
func (n *Node) Ready() (said string, ready bool) {
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: n.fleet.tls(), DisableKeepAlives: true}}
	res, err := c.Get("https://" + n.Server.Admin + "/readyz")
	if err != nil {
		return err.Error(), false
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<16))
	if err != nil {
		return err.Error(), false
	}
	return string(text), res.StatusCode == http.StatusOK
}

// Load is what KMS asks of the fleet while a test does something to it.
type Load struct {
	*kmsload.Load
	fleet *Fleet
}

// connections of a load, and how often each begins once more.
const (
	connections = 12
	forget      = 50
)

// Load begins a load through the balancer, by keys in turn. The name must be of this load
// alone.
func (f *Fleet) Load(name string, keys ...string) *Load {
	return f.load(kmsload.Options{Connections: connections, Keys: keys, Name: name, Pause: 10 * time.Millisecond})
}

// LightLoad is Load for a test that takes long, or runs beside others.
func (f *Fleet) LightLoad(name string, keys ...string) *Load {
	return f.load(kmsload.Options{Connections: 2 * len(f.Nodes), Keys: keys, Name: name, Pause: 100 * time.Millisecond})
}

// FullLoad is Load without pauses.
func (f *Fleet) FullLoad(name string, keys ...string) *Load {
	return f.load(kmsload.Options{Connections: connections, Keys: keys, Name: name})
}

func (f *Fleet) load(o kmsload.Options) *Load {
	o.Forget, o.Client = forget, func() *kmsload.Client { return f.KMS(2 * time.Second) }
	return &Load{kmsload.Start(o), f}
}

// Await waits until there are so many answers more.
func (l *Load) Await(more int) {
	l.fleet.t.Helper()
	want := l.Count() + more
	for end := time.Now().Add(Patience); l.Count() < want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			l.fleet.t.Fatalf("KMS had no %d answers within %v: %v", more, Patience, l.Stop())
		}
	}
}

// Done ends the load, prints its figures, and checks that no answer was wrong and that each
// one has its record in the log of the node that gave it.
func (l *Load) Done(what string) kmsload.Report {
	l.fleet.t.Helper()
	r := l.Stop()
	l.fleet.t.Logf("%s: %v\n%s", what, r, r.Detail())
	if len(r.Wrong) > 0 {
		l.fleet.t.Errorf("%d answers were wrong, the first: %s", len(r.Wrong), r.Wrong[0])
	}
	l.fleet.checkRecords(r)
	return r
}

// checkRecords looks for the record of each answer.
func (f *Fleet) checkRecords(r kmsload.Report) {
	f.t.Helper()
	recorded := make([]map[string]bool, len(f.Nodes))
	for i, n := range f.Nodes {
		recorded[i] = n.recorded()
	}
	given := make([]int, len(f.Nodes))
	lacking := 0
	for _, a := range r.Answered {
		i := slices.IndexFunc(f.Nodes, func(n *Node) bool { return n.certificate.Equal(a.Server) })
		if i < 0 {
			f.t.Fatalf("%s was answered by nobody that is known", a.ID)
		}
		given[i]++
		if !recorded[i][a.ID] {
			lacking++
			if lacking == 1 {
				f.t.Errorf("%s was answered by %s, and is not in its audit log", a.ID, f.Nodes[i].Name)
			}
		}
	}
	f.t.Logf("answers by node: %v; without a record: %d", given, lacking)
}

// recorded gives the request IDs in the node's audit log.
func (n *Node) recorded() map[string]bool {
	t := n.fleet.t
	t.Helper()
	out, in := io.Pipe()
	go func() {
		_ = in.CloseWithError(audit.NewReader(filepath.Join(n.Dir, "state", "audit")).Export(t.Context(), audit.Query{}, in, "jsonl"))
	}()
	ids := map[string]bool{}
	for d := json.NewDecoder(out); ; {
		var r struct {
			KMSRequestID string `json:"kms_request_id"`
		}
		if err := d.Decode(&r); err == io.EOF {
			return ids
		} else if err != nil {
			t.Fatalf("%s: its audit log: %v", n.Name, err)
		}
		ids[r.KMSRequestID] = true
	}
}
