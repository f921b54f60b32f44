package appliance

import (
	"regexp"
	"strings"
	"time"

	"holdfast/appliance/fault"
)

// KeyStore is one external key store as AWS KMS sees it: a URI path prefix
// with keys, credentials and grants of its own.
type KeyStore struct {
	// ID never changes and is never used again: 32 hexadecimal digits.
	ID string `json:"id"`
	// Name is what administrators call it.
	Name string `json:"name"`
	// URIPathPrefix comes before "/kms/xks/v1"; empty, or "/" and a path.
	URIPathPrefix string `json:"uri_path_prefix"`
	// RequestsPerSecond is the quota of authenticated requests; 0 means none.
	RequestsPerSecond int `json:"requests_per_second"`
	// CreatedAt has millisecond precision, as all times of the domain.
	CreatedAt time.Time `json:"created_at"`

	// Blocked says that it is out of service, and why.
	Blocked Block `json:"blocked,omitzero"`
	// Policy is Cedar policies written by hand; empty for none.
	Policy string `json:"-"`

	// WrappedKey is the key store's keyring key, wrapped by the HSM's master key.
	WrappedKey []byte `json:"-"`
	// Seal authenticates the row under the state key.
	Seal []byte `json:"-"`
}

// Binding names the key store's row. Without what key stores did not have at
// first it is bound as it was then, so that those rows remain good.
func (s *KeyStore) Binding() Binding {
	b := Binding{Purpose: "key-store", Fields: []string{
		s.ID, s.Name, s.URIPathPrefix, bindUint(uint64(s.RequestsPerSecond)), BindTime(s.CreatedAt)}}
	if s.Policy != "" || !s.Blocked.IsZero() {
		b.Purpose = "key-store/v2"
		b.Fields = append(b.Fields, s.Policy, s.Blocked.Reason, BindTime(s.Blocked.Since))
	}
	return b
}

// XKSPath is the part of every URI path that KMS is configured with
// (XksProxyUriPath): the prefix followed by this.
const XKSPath = "/kms/xks/v1"

// maxXKSProxyURIPath is the limit for prefix and [XKSPath] together (spec, API operations).
const maxXKSProxyURIPath = 128

var (
	keyStoreName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	uriPathPrefix = regexp.MustCompile(`^(/[A-Za-z0-9_-]+)*$`)
)

// validate reports what is wrong with the name, prefix and quota.
func (s *KeyStore) validate() error {
	if !keyStoreName.MatchString(s.Name) {
		return fault.Errorf(fault.Invalid, "key store name %q: use 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit", s.Name)
	}
	if !uriPathPrefix.MatchString(s.URIPathPrefix) {
		return fault.Errorf(fault.Invalid, "URI path prefix %q: use \"/\" before each part and only letters, digits, '_' and '-' in it, such as /bank/prod", s.URIPathPrefix)
	}
	if n := len(s.URIPathPrefix) + len(XKSPath); n > maxXKSProxyURIPath {
		return fault.Errorf(fault.Invalid, "URI path prefix %q: with %s it has %d characters; KMS allows %d", s.URIPathPrefix, XKSPath, n, maxXKSProxyURIPath)
	}
	if strings.Contains(s.URIPathPrefix+"/", XKSPath+"/") {
		return fault.Errorf(fault.Invalid, "URI path prefix %q: leave out %s, which follows the prefix by itself", s.URIPathPrefix, XKSPath)
	}
	if s.RequestsPerSecond < 0 {
		return fault.Errorf(fault.Invalid, "requests per second %d: use a positive number, or 0 for no quota", s.RequestsPerSecond)
	}
	return nil
}
