package certificate

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Certificate is a server certificate in two PEM files. It is read again when
// a file changes, so that a renewal needs no restart. While the nodes of an installation
// share one, and this one is unlocked, it is that ([Certificate.Open]).
type Certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	now               func() time.Time

	mu      sync.Mutex
	current *tls.Certificate
	version fileVersion
	checked time.Time
	told    string                 // of files that could not be read
	judged  atomic.Pointer[judged] // of the certificate in use

	// vault, endpoint and hosts are set before it serves: endpoint is the host that AWS KMS calls, empty if
	// it follows from the certificate, hosts are it and the console's. roots are the public authorities;
	// nil for the system's.
	vault    Vault
	endpoint string
	hosts    []string
	roots    *x509.CertPool
	shared   atomic.Pointer[serving]
	looking  sync.Mutex
	known    string // the version of what was read last; empty for nothing
	failing  bool
}

// checkEvery is how often at most the files are looked at.
const checkEvery = time.Second

// fileVersion tells whether files have changed.
type fileVersion struct {
	certTime, keyTime time.Time
	certSize, keySize int64
}

// Load reads the certificate with its chain, and its private key. If they cannot be used it serves with those of
// before, until the files change.
func Load(certFile, keyFile string, now func() time.Time, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, log: log, now: now}
	if err := c.begin(); err != nil {
		if err := c.fallBack(err); err != nil {
			return nil, err
		}
	}
	c.checked = now()
	return c, nil
}

// begin reads the files, and finishes what was cut off.
func (c *Certificate) begin() error {
	v, err := c.stat()
	if err != nil {
		return err
	}
	unusable := c.load(v)
	if unusable == nil {
		return nil
	}
	if c.finish() != nil && c.finishRestore() != nil {
		return unusable
	}
	if v, err = c.stat(); err != nil {
		return err
	}
	if err := c.load(v); err != nil {
		return err
	}
	c.log.Warn("the installation of a server certificate was cut off, and is finished now", "file", c.certFile)
	return nil
}

// Get gives the certificate for a handshake: [tls.Config.GetCertificate].
func (c *Certificate) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if s := c.sharedNow(); s != nil {
		return s.pair, nil
	}
	return c.own(), nil
}

// own gives the machine's own. Files that have changed but cannot be used are reported in the
// log, and the certificate that there was is kept.
func (c *Certificate) own() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.now(); now.Sub(c.checked) >= checkEvery {
		c.checked = now
		v, err := c.stat()
		if err == nil && v != c.version {
			if err = c.load(v); err == nil {
				c.log.Info("the server certificate was read anew", "file", c.certFile, "expires", c.current.Leaf.NotAfter)
				c.warn(c.current)
			}
		}
		if told := c.told; err != nil {
			if c.told = err.Error(); c.told != told { // a file that is missing is so each second
				c.log.Error("the server certificate cannot be read anew; the one before is kept", "error", err)
			}
		} else {
			c.told = ""
		}
	}
	return c.current
}

func (c *Certificate) stat() (fileVersion, error) {
	cert, err := os.Stat(c.certFile)
	if err != nil {
		return fileVersion{}, fmt.Errorf("server certificate: %w", err)
	}
	key, err := os.Stat(c.keyFile)
	if err != nil {
		return fileVersion{}, fmt.Errorf("server certificate's key: %w", err)
	}
	return fileVersion{cert.ModTime(), key.ModTime(), cert.Size(), key.Size()}, nil
}

// load reads the files. That they fail is remembered as well: they are tried
// again when they change.
func (c *Certificate) load(v fileVersion) error {
	c.version = v
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("server certificate %s with key %s: %w", c.certFile, c.keyFile, err)
	}
	c.current = &pair
	return nil
}
