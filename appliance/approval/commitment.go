package approval

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
)

// Commitment stands for a secret in a request for approval: a random salt of [saltBytes], and
// the HMAC-SHA256 of the secret under it. The seal of the request covers it, so nobody can have
// another secret taken for the one that was asked for. The secrets that operations take have so
// many random bits that nobody finds one by its commitment.
type Commitment []byte

const saltBytes = 32

// Commit makes the commitment to a secret.
func Commit(secret []byte) Commitment {
	salt := make([]byte, saltBytes)
	_, _ = rand.Read(salt) // never fails (crypto/rand)
	return append(salt, tag(salt, secret)...)
}

// To says whether it is a commitment to the secret. An empty one is to none.
func (c Commitment) To(secret []byte) bool {
	return len(c) == saltBytes+sha256.Size && subtle.ConstantTimeCompare(c[saltBytes:], tag(c[:saltBytes], secret)) == 1
}

func tag(salt, secret []byte) []byte {
	m := hmac.New(sha256.New, salt)
	m.Write(secret)
	return m.Sum(nil)
}
