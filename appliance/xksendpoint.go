package appliance

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
)

// What KMS takes as XksProxyUriEndpoint (AWS KMS API reference, CreateCustomKeyStore): https:// and a
// name, 10 to 128 characters in all. KMS calls port 443 alone; the name is fully qualified (XKS proxy API
// specification, API operations), and with a VPC endpoint service its private DNS name.
var (
	xksEndpoint = regexp.MustCompile(`^https://[a-zA-Z0-9.-]+$`)
	dnsLabel    = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)
)

const (
	minXKSEndpoint = 10
	maxXKSEndpoint = 128
)

// CheckXKSEndpoint says in one line why KMS does not take a text as the endpoint of a key store
// (XksProxyUriEndpoint), and what it takes; nil if it does.
func CheckXKSEndpoint(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(text, "#"):
		return fmt.Errorf("%q is not of the form https://NAME that AWS KMS takes, such as https://xks.example.com", text)
	case u.Path != "":
		return fmt.Errorf("%q has a path, and AWS KMS takes none in the endpoint: leave it out; each key store has its own path prefix (XksProxyUriPath)", text)
	case strings.Contains(u.Host, ":") && !strings.HasPrefix(u.Host, "["):
		return fmt.Errorf("%q has a port, and AWS KMS calls port 443 alone: leave it out, and have the load balancer pass 443 on to the port of xks.address", text)
	}
	name := u.Hostname()
	if _, err := netip.ParseAddr(name); err == nil {
		return fmt.Errorf("%q has an IP address, and AWS KMS takes none: give the DNS name that the certificate is for, such as https://xks.example.com", text)
	}
	if !xksEndpoint.MatchString(text) {
		return fmt.Errorf("%q has characters that AWS KMS does not take: use a name of letters, digits, '-' and '.', such as https://xks.example.com", text)
	}
	if n := len(text); n < minXKSEndpoint || n > maxXKSEndpoint {
		return fmt.Errorf("%q has %d characters, and AWS KMS takes %d to %d: give another name", text, n, minXKSEndpoint, maxXKSEndpoint)
	}
	labels := strings.Split(name, ".")
	if len(labels) < 2 {
		return fmt.Errorf("%q is one label, and AWS KMS needs a fully qualified name: give the whole of it, such as https://xks.example.com", text)
	}
	for _, l := range labels {
		if !dnsLabel.MatchString(l) {
			return fmt.Errorf("%q is no DNS name at %q: give one such as https://xks.example.com", text, l)
		}
	}
	return nil
}
