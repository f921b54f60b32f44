// Package sigv4 reads requests signed with AWS Signature Version 4, as the
// XKS proxy API specification, Appendix A, has AWS KMS sign them.
//
// Use [Verifier.Parse] when the headers of a request have arrived, and
// [Claim.StringToSign] when its body is read as well: so a request that cannot be
// authentic is refused before its body costs anything. Whoever has the secret
// compares the signatures (appliance.Signature); it never comes here.
//
// # Guarantees
//
//   - The signature covers method, path, host, x-amz-date, every other header
//     that the caller names, and the body. A query string is not part of the
//     API: Parse refuses it.
//   - A request outside of five minutes around the clock is refused.
//
// Errors say what was wrong, for the log. Do not show them to the caller, which
// is not to learn which part failed.
package sigv4

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Service is the service name of the XKS proxy API (spec, Appendix A).
const Service = "kms-xks-proxy"

// MaxSkew is how far a request's time may be from the clock, before or after
// (spec, Appendix A, task 4).
const MaxSkew = 5 * time.Minute

const (
	algorithm  = "AWS4-HMAC-SHA256"
	terminator = "aws4_request"
	timeLayout = "20060102T150405Z"
	amzDateKey = "X-Amz-Date"

	// The limits of what is parsed: several times what KMS sends.
	maxAuthorization = 2048
	maxSignedHeaders = 32
)

// Verifier holds the rules that are the same for all requests. The zero value
// is ready: the service is [Service], any Region is accepted.
type Verifier struct {
	// Services are names accepted besides [Service].
	Services []string
	// Regions are the ones accepted; empty means any.
	Regions []string
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Claim is what a request's headers claim, not verified yet.
type Claim struct {
	AccessKeyID string
	// Date is the scope's date, YYYYMMDD.
	Date string
	// Region and Service are the scope's.
	Region, Service string
	// Time is the request's own, from X-Amz-Date.
	Time time.Time
	// Skew is the request's time minus the clock's: negative if it was signed
	// in the past.
	Skew time.Duration
	// Signature is the one that came with the request.
	Signature [sha256.Size]byte

	amzDate string
	// signedHeaders are their names, in lower case and sorted, with semicolons between.
	signedHeaders string
	// toSign is where StringToSign puts what it gives; it is enough for what KMS sends.
	toSign [192]byte
}

// Parse reads the claim of a request from its headers, and checks all that can
// be checked without the secret and the body. With an error for the time alone
// it gives the claim as well, so that the skew can be logged.
func (v *Verifier) Parse(r *http.Request) (*Claim, error) {
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		return nil, errors.New("the request has a query string, which the XKS API does not use")
	}
	header := r.Header["Authorization"]
	if len(header) != 1 {
		return nil, fmt.Errorf("the request has %d Authorization headers instead of one", len(header))
	}
	c, err := parseAuthorization(header[0])
	if err != nil {
		return nil, err
	}
	if c.Service != Service && !slices.Contains(v.Services, c.Service) {
		return nil, fmt.Errorf("the credential scope is for service %q instead of %q", c.Service, Service)
	}
	if len(v.Regions) > 0 && !slices.Contains(v.Regions, c.Region) {
		return nil, fmt.Errorf("the credential scope is for Region %q, which is not among those allowed", c.Region)
	}
	// HTTP/2 has the pseudo-header :authority where HTTP/1.1 has Host; signers
	// use either name (spec, Appendix A, task 1).
	host := c.signs("host") || (r.ProtoMajor == 2 && c.signs(":authority"))
	if !host || !c.signs("x-amz-date") {
		return nil, fmt.Errorf("the signed headers %q lack host or x-amz-date", c.signedHeaders)
	}
	dates := r.Header[amzDateKey]
	if len(dates) != 1 {
		return nil, fmt.Errorf("the request has %d X-Amz-Date headers instead of one", len(dates))
	}
	c.amzDate = dates[0]
	c.Time, err = time.Parse(timeLayout, c.amzDate)
	if err != nil || len(c.amzDate) != len(timeLayout) { // time.Parse takes fractions of a second
		return nil, fmt.Errorf("the X-Amz-Date %.40q is not of the form YYYYMMDD'T'HHMMSS'Z'", c.amzDate)
	}
	if c.Date != c.amzDate[:len("YYYYMMDD")] {
		return nil, fmt.Errorf("the credential scope's date %q is not that of X-Amz-Date %q", c.Date, c.amzDate)
	}
	now := time.Now
	if v.Now != nil {
		now = v.Now
	}
	c.Skew = c.Time.Sub(now()).Round(time.Second)
	if c.Skew > MaxSkew || c.Skew < -MaxSkew {
		return c, fmt.Errorf("the request was signed %s from now by this clock; at most %s are allowed: check both clocks", c.Skew, MaxSkew)
	}
	return c, nil
}

// parseAuthorization reads a header of the form
//
//	AWS4-HMAC-SHA256 Credential=ID/DATE/REGION/SERVICE/aws4_request, SignedHeaders=a;b, Signature=HEX
func parseAuthorization(header string) (*Claim, error) {
	if len(header) > maxAuthorization {
		return nil, fmt.Errorf("the Authorization header has %d characters; at most %d are read", len(header), maxAuthorization)
	}
	rest, ok := strings.CutPrefix(header, algorithm+" ")
	if !ok {
		return nil, fmt.Errorf("the Authorization header does not begin with %s", algorithm)
	}
	var credential, signedHeaders, signature string
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		var field *string
		switch name {
		case "Credential":
			field = &credential
		case "SignedHeaders":
			field = &signedHeaders
		case "Signature":
			field = &signature
		}
		if field == nil || *field != "" || value == "" {
			return nil, fmt.Errorf("the Authorization header has an unknown, empty or repeated part %.40q", name)
		}
		*field = value
	}
	var scope [5]string
	parts := 0
	for part := range strings.SplitSeq(credential, "/") {
		if parts < len(scope) {
			scope[parts] = part
		}
		parts++
	}
	if parts != len(scope) || scope[4] != terminator || slices.Contains(scope[:], "") {
		return nil, errors.New("the Authorization header's Credential is not of the form ID/DATE/REGION/SERVICE/aws4_request")
	}
	c := &Claim{AccessKeyID: scope[0], Date: scope[1], Region: scope[2], Service: scope[3]}
	c.signedHeaders = signedHeaders
	if n := 1 + strings.Count(signedHeaders, ";"); n > maxSignedHeaders {
		return nil, fmt.Errorf("the Authorization header names %d signed headers; at most %d are read", n, maxSignedHeaders)
	}
	before := ""
	for name := range strings.SplitSeq(signedHeaders, ";") {
		if name <= before || name != strings.ToLower(name) {
			return nil, errors.New("the signed headers are not in lower case, sorted and each named once")
		}
		before = name
	}
	if len(signature) != hex.EncodedLen(sha256.Size) || signature != strings.ToLower(signature) {
		return nil, errors.New("the signature is not 64 lower-case hexadecimal digits")
	}
	if _, err := hex.Decode(c.Signature[:], []byte(signature)); err != nil {
		return nil, errors.New("the signature is not 64 lower-case hexadecimal digits")
	}
	return c, nil
}

// signs says whether the header is among those signed.
func (c *Claim) signs(name string) bool {
	for signed := range strings.SplitSeq(c.signedHeaders, ";") {
		if signed == name {
			return true
		}
	}
	return false
}

// StringToSign gives what the signature of the request with this body is made of,
// under the signing key that is derived from the secret of the claim's credential
// for the claim's scope. It is valid until the next call.
func (c *Claim) StringToSign(r *http.Request, body []byte) ([]byte, error) {
	var buf [1024]byte // on the stack, and enough for what KMS sends
	canonical, err := c.canonicalRequest(buf[:0], r, body)
	if err != nil {
		return nil, err
	}
	hashed := sha256.Sum256(canonical)
	toSign := append(c.toSign[:0], algorithm+"\n"...)
	toSign = append(toSign, c.amzDate...)
	toSign = append(toSign, '\n')
	toSign = append(toSign, c.Date...)
	toSign = append(toSign, '/')
	toSign = append(toSign, c.Region...)
	toSign = append(toSign, '/')
	toSign = append(toSign, c.Service...)
	toSign = append(toSign, "/"+terminator+"\n"...)
	return hex.AppendEncode(toSign, hashed[:]), nil
}

// canonicalRequest appends what was hashed and signed: AWS Signature Version 4,
// "Create a canonical request". The path of an XKS request has no character
// that would be encoded differently once more.
func (c *Claim) canonicalRequest(out []byte, r *http.Request, body []byte) ([]byte, error) {
	out = append(out, r.Method...)
	out = append(out, '\n')
	out = append(out, r.URL.EscapedPath()...)
	out = append(out, "\n\n"...) // no query string
	for name := range strings.SplitSeq(c.signedHeaders, ";") {
		out = append(out, name...)
		out = append(out, ':')
		var err error
		if out, err = appendHeader(out, r, name); err != nil {
			return nil, err
		}
		out = append(out, '\n')
	}
	out = append(out, '\n')
	out = append(out, c.signedHeaders...)
	out = append(out, '\n')
	hashed := sha256.Sum256(body)
	return hex.AppendEncode(out, hashed[:]), nil
}

// appendHeader adds a header's values, separated by commas, each without spaces
// around it and with single spaces inside.
func appendHeader(out []byte, r *http.Request, name string) ([]byte, error) {
	switch name {
	case "host", ":authority":
		// net/http takes these two out of the header.
		return append(out, r.Host...), nil
	case "content-length":
		return strconv.AppendInt(out, r.ContentLength, 10), nil
	}
	key := amzDateKey
	if name != "x-amz-date" { // this one always is, and is not among those that net/http knows
		key = http.CanonicalHeaderKey(name)
	}
	values := r.Header[key]
	if len(values) == 0 {
		return nil, fmt.Errorf("the signed header %.60q is not in the request", name)
	}
	for i, value := range values {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendTrimmed(out, value)
	}
	return out, nil
}

func appendTrimmed(out []byte, value string) []byte {
	value = strings.Trim(value, " \t")
	space := false
	for i := 0; i < len(value); i++ {
		if value[i] == ' ' && space {
			continue
		}
		space = value[i] == ' '
		out = append(out, value[i])
	}
	return out
}
