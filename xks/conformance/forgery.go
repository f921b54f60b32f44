package conformance

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// The fixed words of Signature Version 4.
const (
	algorithm   = "AWS4-HMAC-SHA256"
	terminator  = "aws4_request"
	stampLayout = "20060102T150405Z"
	dateLayout  = "20060102"
)

// forgery makes signatures that are right by the arithmetic of Signature
// Version 4 and wrong in what they sign, such as one that leaves out the host.
// An honest signer cannot make them, and a signature merely altered would be
// refused for the wrong reason.
type forgery struct {
	accessKeyID, secret string
	stamp               string   // X-Amz-Date
	signed              []string // names of the headers signed, sorted
	scope               scope    // as sent, and signed as part of the string to sign
	derived             scope    // from which the signing key comes: the same, if honest
}

// scope is the credential scope.
type scope struct{ date, region, service, terminator string }

func (s scope) String() string {
	return strings.Join([]string{s.date, s.region, s.service, s.terminator}, "/")
}

// newForgery signs as an honest signer would, until it is changed.
func newForgery(c call) forgery {
	at := c.at.UTC()
	honest := scope{at.Format(dateLayout), c.region, c.service, terminator}
	return forgery{accessKeyID: c.accessKeyID, secret: c.secret, stamp: at.Format(stampLayout),
		signed: []string{"host", "x-amz-date"}, scope: honest, derived: honest}
}

// setScope changes the scope together with the key derived from it.
func (f *forgery) setScope(change func(*scope)) {
	change(&f.scope)
	change(&f.derived)
}

// authorization is the Authorization header for a request whose path needs no
// escaping and which has no query.
func (f *forgery) authorization(r *http.Request, body []byte) string {
	names := strings.Join(f.signed, ";")
	canonical := r.Method + "\n" + r.URL.Path + "\n\n"
	for _, name := range f.signed {
		value := r.Header.Get(name)
		if name == "host" {
			value = r.Host
		}
		canonical += name + ":" + value + "\n"
	}
	canonical += fmt.Sprintf("\n%s\n%x", names, sha256.Sum256(body))
	toSign := fmt.Sprintf("%s\n%s\n%v\n%x", algorithm, f.stamp, f.scope, sha256.Sum256([]byte(canonical)))
	key := []byte("AWS4" + f.secret)
	for _, part := range []string{f.derived.date, f.derived.region, f.derived.service, f.derived.terminator} {
		key = mac(key, part)
	}
	return fmt.Sprintf("%s Credential=%s/%v, SignedHeaders=%s, Signature=%s",
		algorithm, f.accessKeyID, f.scope, names, hex.EncodeToString(mac(key, toSign)))
}

func mac(key []byte, message string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(message))
	return h.Sum(nil)
}

func yesterday(stamp string) string {
	at, _ := time.Parse(stampLayout, stamp)
	return at.AddDate(0, 0, -1).Format(dateLayout)
}
