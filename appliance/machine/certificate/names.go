package certificate

import (
	"crypto/x509"
	"net"
	"net/url"
	"os"
	"slices"
)

// LocalNames are the DNS names and IP addresses by which this machine is called, as
// far as it knows them: those in the URLs, its host name, its addresses. There is at
// least one.
func LocalNames(urls ...string) (names []string) {
	add := func(name string) {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, configured := range urls {
		if u, err := url.Parse(configured); err == nil {
			add(u.Hostname())
		}
	}
	if name, err := os.Hostname(); err == nil && name != "localhost" && ValidDNSName(name) {
		add(name)
	}
	local, _ := net.InterfaceAddrs() // without addresses there are names
	for _, a := range local {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			add(n.IP.String())
		}
	}
	if len(names) == 0 {
		names = []string{"localhost"}
	}
	return names
}

// Names are the DNS names and then the IP addresses that a certificate is for; empty,
// not nil, for none.
func Names(c *x509.Certificate) []string {
	names := append([]string{}, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}
