package appliancetest

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
)

// Principal is who the requests of a client are for.
const Principal = "arn:aws:iam::123456789012:user/Alice"

// Client uses the keys of a key store, a session for each request.
type Client struct {
	T             testing.TB
	Appliance     *appliance.Appliance
	URIPathPrefix string
	// AccessKeyID and SecretAccessKey are the credential that proves requests.
	AccessKeyID, SecretAccessKey string
}

// Request is one request of a client. Make it by [Encrypt], [Decrypt], [Attributes] or
// [Health], and change what the test is about.
type Request struct {
	// Context names the operation, the key and the principal.
	Context   appliance.RequestContext
	Plaintext []byte
	// Check has the ciphertext proven to decrypt ([appliance.Session.Encrypt]).
	Check      bool
	Ciphertext *appliance.Ciphertext
	AAD        []byte
}

// Encrypt encrypts the plaintext under the key, for [Principal].
func Encrypt(key, plaintext string) Request {
	return Request{Context: about(appliance.OpEncrypt, key), Plaintext: []byte(plaintext)}
}

// Decrypt decrypts with the key, for [Principal].
func Decrypt(key string, c *appliance.Ciphertext) Request {
	return Request{Context: about(appliance.OpDecrypt, key), Ciphertext: c}
}

// Attributes describes the key to [Principal].
func Attributes(key string) Request { return Request{Context: about(appliance.OpGetAttributes, key)} }

// Health asks for the state of the HSMs.
func Health() Request { return Request{Context: about(appliance.OpHealth, "")} }

func about(op appliance.Operation, key string) appliance.RequestContext {
	return appliance.RequestContext{Principal: Principal, Operation: op, Key: key}
}

// Answer is what a request was given: what its operation gives, and no more.
type Answer struct {
	Ciphertext *appliance.Ciphertext
	Plaintext  string
	Key        appliance.ExternalKey
	HSMs       []appliance.HSMHealth
}

// patience is how long a request may take: the race detector and a busy machine are
// slow.
const patience = time.Minute

// protocol is a front end with the domain's own words. The audit log has no kind for one
// that is in tests alone, and so its requests are of the kind of XKS.
type protocol struct{}

// Words implements [appliance.Protocol].
func (protocol) Words(o *appliance.Outcome) appliance.Words {
	return appliance.Words{Protocol: string(audit.KindXKS), Operation: string(o.Request.Operation), Error: string(fault.CodeOf(o.Err))}
}

// Limits implements [appliance.Protocol]: they are the domain's.
func (protocol) Limits() appliance.Limits { return appliance.Limits{} }

// Call makes a request. With an error nothing may be given out: if something is, the
// test fails.
func (c *Client) Call(r Request) (Answer, error) {
	c.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	e, err := c.Appliance.Endpoint(c.URIPathPrefix)
	if err != nil {
		return Answer{}, err
	}
	s, err := e.Open(Proof(c.AccessKeyID, c.SecretAccessKey, "a request"), &appliance.Outcome{Protocol: protocol{}, Request: r.Context})
	if err != nil {
		return Answer{}, err
	}
	var a Answer
	given := false
	switch r.Context.Operation {
	case appliance.OpEncrypt:
		var check func(*appliance.Ciphertext)
		if r.Check {
			check = func(*appliance.Ciphertext) {}
		}
		a.Ciphertext, err = s.Encrypt(ctx, r.Plaintext, r.AAD, check)
		given = a.Ciphertext != nil
	case appliance.OpDecrypt:
		var plaintext []byte
		plaintext, err = s.Decrypt(ctx, r.Ciphertext, r.AAD)
		a.Plaintext, given = string(plaintext), plaintext != nil
	case appliance.OpGetAttributes:
		a.Key, err = s.Attributes(ctx)
		given = a.Key.ID != ""
	case appliance.OpHealth:
		a.HSMs, err = s.Health(ctx)
		given = a.HSMs != nil
	default:
		c.T.Errorf("a session has no operation %q", r.Context.Operation)
	}
	if err != nil && given {
		c.T.Errorf("%s %s: something is given out beside the error %v", r.Context.Operation, r.Context.Key, err)
	}
	return a, err
}

// OK makes a request that must succeed.
func (c *Client) OK(r Request) Answer {
	c.T.Helper()
	a, err := c.Call(r)
	if err != nil {
		c.T.Fatalf("%s %s: %v (%s)", r.Context.Operation, r.Context.Key, err, fault.CodeOf(err))
	}
	return a
}

// Fails makes a request that must fail with the code.
func (c *Client) Fails(r Request, code fault.Code) {
	c.T.Helper()
	if _, err := c.Call(r); err == nil || fault.CodeOf(err) != code {
		c.T.Errorf("%s %s: got %v (%s), want %s", r.Context.Operation, r.Context.Key, err, fault.CodeOf(err), code)
	}
}

// Proof signs a text with a credential ([appliance.Endpoint.Open]).
func Proof(accessKeyID, secretAccessKey, text string) *appliance.Signature {
	p := &appliance.Signature{AccessKeyID: accessKeyID, Date: "20261123", Region: "us-east-1", Service: "kms-xks-proxy", StringToSign: []byte(text)}
	p.Signature = Signature(secretAccessKey, p.Date, p.Region, p.Service, text)
	return p
}

// Signature is that of AWS Signature Version 4.
func Signature(secretAccessKey, date, region, service, text string) [32]byte {
	key := []byte("AWS4" + secretAccessKey)
	for _, part := range []string{date, region, service, "aws4_request", text} {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	return [32]byte(key)
}

// Session opens a session for the key on behalf of [Principal].
func Session(e *appliance.Endpoint, accessKeyID, secretAccessKey, key string) (*appliance.Session, error) {
	o := &appliance.Outcome{Request: appliance.RequestContext{Principal: Principal, Key: key}}
	return e.Open(Proof(accessKeyID, secretAccessKey, "a request"), o)
}
