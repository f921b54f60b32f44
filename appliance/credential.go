package appliance

import (
	"regexp"
	"time"
)

// Credential is a SigV4 credential with which KMS signs requests to one key
// store. It has nothing to do with IAM.
type Credential struct {
	// AccessKeyID is 20 to 30 characters of A-Z and 2-7.
	AccessKeyID string `json:"access_key_id"`
	// KeyStore is the ID of the key store it opens.
	KeyStore  string    `json:"-"`
	Active    bool      `json:"active"`
	CreatedAt time.Time `json:"created_at"`
	// LastUsedAt is when it last authenticated a request; zero if never. It is
	// stored once a minute, so that a crash may lose the last minute of it.
	LastUsedAt time.Time `json:"last_used_at,omitzero"`

	// Secret is the secret access key, sealed under the state key.
	Secret []byte `json:"-"`
}

// Binding names the credential's row.
func (c *Credential) Binding() Binding {
	return Binding{Purpose: "credential", Fields: []string{
		c.AccessKeyID, c.KeyStore, bindBool(c.Active), BindTime(c.CreatedAt)}}
}

var (
	accessKeyID     = regexp.MustCompile(`^[A-Z2-7]{20,30}$`)
	secretAccessKey = regexp.MustCompile(`^[A-Za-z0-9+/=]{43,64}$`)
)

// ValidAccessKeyID says whether KMS accepts s as an access key ID (spec,
// Appendix A).
func ValidAccessKeyID(s string) bool { return accessKeyID.MatchString(s) }

// ValidSecretAccessKey says whether KMS accepts s as a secret access key (spec,
// "XKS proxy configuration in AWS KMS console").
func ValidSecretAccessKey(s string) bool { return secretAccessKey.MatchString(s) }
