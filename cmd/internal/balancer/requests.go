package balancer

import (
	"net/http"
	"net/http/httputil"
	"net/url"
)

// Requests is a balancer that ends TLS: each request goes to another node than the one
// before it. Nodes see the name that the client has asked for. [Balancer.Requests] makes one.
type Requests struct {
	b       *Balancer
	address int
	watch   func(node string, r *http.Request)
	http    *http.Transport

	// What pages load beside them has a turn of its own: it would bring each page to the
	// same node if there are as many files as nodes. The balancer locks both.
	pages, beside int
}

// Requests gives a handler that sends requests to the nodes' address of that index. The
// server that has the handler ends TLS. Watch is told which node gets a request; nil for
// nobody.
func (b *Balancer) Requests(address int, watch func(node string, r *http.Request)) *Requests {
	return &Requests{b: b, address: address, watch: watch, http: &http.Transport{TLSClientConfig: b.o.TLS}}
}

// ServeHTTP implements [http.Handler].
func (r *Requests) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	turn := &r.pages
	switch q.Header.Get("Sec-Fetch-Dest") {
	case "style", "script", "image", "font":
		turn = &r.beside
	}
	order := r.b.turn(turn)
	if len(order) == 0 {
		http.Error(w, "there is no node", http.StatusBadGateway)
		return
	}
	n := order[0]
	if r.watch != nil {
		r.watch(n.Name, q)
	}
	to := &url.URL{Scheme: "https", Host: n.Addresses[r.address]}
	proxy := httputil.ReverseProxy{Transport: r.http, Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(to)
		p.Out.Host = p.In.Host
	}}
	proxy.ServeHTTP(w, q)
}

// Close ends the connections to nodes that no request uses.
func (r *Requests) Close() { r.http.CloseIdleConnections() }
