package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/pelletier/go-toml/v2"

	"holdfast/appliance"
	"holdfast/attest/privatefile"
)

// peer is an XKS proxy that runs already, of whatever kind: --against NAME=URL,… says
// where, and a table of the file of --credentials with the same name how to call it.
type peer struct {
	name string
	url  *url.URL
	account
	trust *tls.Config
}

// account is a table of the file of --credentials.
type account struct {
	// AccessKeyID and SecretAccessKey are the credential that KMS would have.
	AccessKeyID     string `toml:"access_key_id"`
	SecretAccessKey string `toml:"secret_access_key"`
	// Keys are IDs of external keys; requests are spread over them.
	Keys []string `toml:"keys"`
	// CA is a file with certificates to trust in the place of the system's. Files are sought
	// beside the file of --credentials.
	CA string `toml:"ca"`
	// Certificate and CertificateKey are files with the client certificate of a proxy that asks KMS for one.
	Certificate    string `toml:"certificate"`
	CertificateKey string `toml:"certificate_key"`
	// Principal, KMSKeyARN and Region are what requests tell, where the proxy allows only some.
	Principal string `toml:"principal"`
	KMSKeyARN string `toml:"kms_key_arn"`
	Region    string `toml:"region"`
	// PID is its process if it runs on this machine: then its CPU time and memory are measured.
	PID int `toml:"pid"`
}

var peerName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$`)

// parsePeers reads --against and the file of --credentials.
func parsePeers(against, file string) (peers []*peer, err error) {
	if against == "" {
		if file != "" {
			return nil, errors.New("--credentials is for --against NAME=URL, which is missing")
		}
		return nil, nil
	}
	for word := range strings.SplitSeq(against, ",") {
		p, err := parsePeer(word)
		if err != nil {
			return nil, fmt.Errorf("--against: %w", err)
		}
		if slices.ContainsFunc(peers, func(other *peer) bool { return other.name == p.name }) {
			return nil, fmt.Errorf("--against: the name %s is given twice", p.name)
		}
		peers = append(peers, p)
	}
	if file == "" {
		return nil, fmt.Errorf("--against needs --credentials FILE with a table [%s]; docs/performance.md shows one", peers[0].name)
	}
	accounts, err := readAccounts(file)
	if err != nil {
		return nil, fmt.Errorf("--credentials: %w", err)
	}
	for _, p := range peers {
		a, ok := accounts[p.name]
		if !ok {
			return nil, fmt.Errorf("--credentials: %s has no table [%s]", file, p.name)
		}
		if err := p.use(a, filepath.Dir(file)); err != nil {
			return nil, fmt.Errorf("--credentials: %s, [%s]: %w", file, p.name, err)
		}
	}
	return peers, nil
}

func parsePeer(word string) (*peer, error) {
	name, text, ok := strings.Cut(strings.TrimSpace(word), "=")
	if !ok {
		return nil, fmt.Errorf("%q is not NAME=URL; --beside PROGRAM measures another build of Holdfast", word)
	}
	if !peerName.MatchString(name) {
		return nil, fmt.Errorf("the name %q is not up to 32 letters, digits, hyphens and underscores", name)
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("the URL of %s is not https://HOST[:PORT][/PREFIX]", name)
	}
	// What KMS calls the URI path has this end; what people call the prefix has not.
	u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), appliance.XKSPath)
	return &peer{name: name, url: u}, nil
}

// maxAccounts bounds the file of --credentials.
const maxAccounts = 1 << 20

// readAccounts reads the file of --credentials, which only its owner may read.
func readAccounts(file string) (map[string]account, error) {
	f, err := privatefile.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() || info.Size() > maxAccounts {
		return nil, fmt.Errorf("%s is not a file of at most %d bytes", file, maxAccounts)
	}
	var accounts map[string]account
	err = toml.NewDecoder(f).DisallowUnknownFields().Decode(&accounts)
	if unknown := (*toml.StrictMissingError)(nil); errors.As(err, &unknown) {
		line, _ := unknown.Errors[0].Position()
		return nil, fmt.Errorf("%s, line %d: %s is not known here", file, line, strings.Join(unknown.Errors[0].Key(), "."))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return accounts, nil
}

// use takes over the account; files are sought in the folder.
func (p *peer) use(a account, folder string) error {
	switch {
	case a.AccessKeyID == "" || a.SecretAccessKey == "":
		return errors.New("access_key_id and secret_access_key must be given")
	case len(a.Keys) == 0 || slices.Contains(a.Keys, ""):
		return errors.New("keys must be given: the IDs of one or more external keys")
	case (a.Certificate == "") != (a.CertificateKey == ""):
		return errors.New("certificate and certificate_key must be given both or not at all")
	}
	beside := func(file string) string {
		if filepath.IsAbs(file) {
			return file
		}
		return filepath.Join(folder, file)
	}
	p.account = a
	p.trust = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, ServerName: p.url.Hostname()}
	if a.CA != "" {
		text, err := os.ReadFile(beside(a.CA))
		if err != nil {
			return fmt.Errorf("ca: %w", err)
		}
		p.trust.RootCAs = x509.NewCertPool()
		if !p.trust.RootCAs.AppendCertsFromPEM(text) {
			return fmt.Errorf("ca: %s has no certificate in PEM", a.CA)
		}
	}
	if a.Certificate != "" {
		c, err := tls.LoadX509KeyPair(beside(a.Certificate), beside(a.CertificateKey))
		if err != nil {
			return fmt.Errorf("certificate and certificate_key: %w", err)
		}
		p.trust.Certificates = []tls.Certificate{c}
	}
	return nil
}

// server gives the peer as what is measured.
func (p *peer) server() *server {
	addr := p.url.Host
	if p.url.Port() == "" {
		addr = net.JoinHostPort(p.url.Hostname(), "443")
	}
	c := newCaller(addr)
	c.host, c.prefix = p.url.Host, p.url.Path
	c.credential = aws.Credentials{AccessKeyID: p.AccessKeyID, SecretAccessKey: p.SecretAccessKey}
	for _, o := range []struct {
		to   *string
		from string
	}{{&c.principal, p.Principal}, {&c.kmsKeyARN, p.KMSKeyARN}, {&c.region, p.Region}} {
		if o.from != "" {
			*o.to = o.from
		}
	}
	return &server{process: &process{name: p.name, pid: p.PID}, caller: c, trust: p.trust}
}

// try has each key encrypt and decrypt once, so that what is wrong is told before
// the measurement, in words that help.
func (p *peer) try(ctx context.Context) (*server, error) {
	s := p.server()
	g, err := connect(ctx, s.addr, s.trust, 1)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, p.notConnected(err))
	}
	defer g.close()
	if err := g.connections[0].setDeadline(time.Now().Add(hangs)); err != nil {
		return nil, err
	}
	for _, key := range p.Keys {
		if err := s.tryKey(g.connections[0], key); err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, p.refused(err, key))
		}
	}
	if p.PID != 0 {
		if _, err := s.cpu(); err != nil {
			return nil, fmt.Errorf("%w; give as pid its process on this machine, or leave pid out", err)
		}
	}
	return s, nil
}

// noXKS is what is wrong with an answer that is 200.
type noXKS string

func (n noXKS) Error() string { return string(n) }

func (s *server) tryKey(c *connection, key string) error {
	body := s.encryptBody()
	request, err := s.bytes(key, appliance.OpEncrypt, body)
	if err != nil {
		return err
	}
	answer, err := c.exchange(request)
	if err != nil {
		return err
	}
	made, err := decode(answer)
	const ivBytes, tagBytes = 12, 16
	if err != nil || len(made.Ciphertext) == 0 || len(made.IV) != ivBytes || len(made.Tag) != tagBytes {
		return noXKS(fmt.Sprintf("Encrypt answered %.100q", answer))
	}
	if request, err = s.bytes(key, appliance.OpDecrypt, s.decryptBody(made)); err != nil {
		return err
	}
	if answer, err = c.exchange(request); err != nil {
		return err
	}
	var opened struct {
		Plaintext []byte `json:"plaintext"`
	}
	if err := json.Unmarshal(answer, &opened); err != nil || !bytes.Equal(opened.Plaintext, body.Plaintext) {
		return noXKS("Decrypt did not give back what Encrypt was given")
	}
	return nil
}

// notConnected says what to do about a connection that is not made.
func (p *peer) notConnected(err error) error {
	var untrusted *tls.CertificateVerificationError
	var alert tls.AlertError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &untrusted):
		return fmt.Errorf("its TLS certificate is not trusted for %s (%w); name a file with its CA's certificate as ca in [%s]", p.url.Hostname(), untrusted.Err, p.name)
	case errors.As(err, &record):
		return fmt.Errorf("what listens at %s does not speak TLS; give the URL that KMS calls", p.url.Host)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nobody listens at %s; start the proxy, or mend the URL", p.url.Host)
	case errors.As(err, &alert):
		return p.alerted(err)
	}
	return fmt.Errorf("%s: %w", p.url.Host, err)
}

// alerted says what to do about a TLS alert. In TLS 1.3 that of a missing certificate comes in the place of the first answer.
func (p *peer) alerted(err error) error {
	return fmt.Errorf("it ended TLS (%w); if it asks KMS for a client certificate, name one as certificate and certificate_key in [%s]", err, p.name)
}

// refused says what to do about an answer that is not what KMS wants.
func (p *peer) refused(err error, key string) error {
	var no *answered
	var other noXKS
	if errors.As(err, &other) {
		return fmt.Errorf("%w, so it is not an XKS proxy; mend the URL", err)
	}
	if remote := (*net.OpError)(nil); errors.As(err, &remote) && remote.Op == "remote error" {
		return p.alerted(err)
	}
	if !errors.As(err, &no) {
		return fmt.Errorf("it did not answer as HTTP/1.1 (%w); mend the URL", err)
	}
	var told struct {
		Name    string `json:"errorName"`
		Message string `json:"errorMessage"`
	}
	if json.Unmarshal([]byte(no.body), &told) != nil || told.Name == "" {
		return fmt.Errorf("it answered %d and not as an XKS proxy does (%.100q); mend the URL, its path is the key store's URI path prefix", no.status, no.body)
	}
	mend := map[string]string{
		"AuthenticationFailedException": fmt.Sprintf("access_key_id, secret_access_key or region in [%s] is not that of the key store", p.name),
		"KeyNotFoundException":          fmt.Sprintf("it has no key %q; name external keys of the key store as keys in [%s]", key, p.name),
		"InvalidUriPathException":       "mend the URL: its path is the key store's URI path prefix",
		"AccessDeniedException":         fmt.Sprintf("allow the principal %s to encrypt and decrypt, or name another as principal in [%s]", p.server().principal, p.name),
		"InvalidStateException":         fmt.Sprintf("enable key %q, or name another as keys in [%s]", key, p.name),
		"InvalidKeyUsageException":      fmt.Sprintf("key %q must encrypt and decrypt; name another as keys in [%s]", key, p.name),
	}[told.Name]
	if mend == "" {
		mend = "its log says why"
	}
	return fmt.Errorf("it answered %d %s %.100q: %s", no.status, told.Name, told.Message, mend)
}
