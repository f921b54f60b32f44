package xkstest

import (
	"crypto/hmac"
	"crypto/sha256"

	"holdfast/appliance"
)

// Proof signs a text with a credential, for a session of the domain without HTTP
// ([appliance.Endpoint.Open]).
func Proof(accessKeyID, secretAccessKey, text string) *appliance.Signature {
	p := &appliance.Signature{AccessKeyID: accessKeyID, Date: "20261123", Region: "us-east-1", Service: "kms-xks-proxy", StringToSign: []byte(text)}
	key := []byte("AWS4" + secretAccessKey)
	for _, part := range []string{p.Date, p.Region, p.Service, "aws4_request", text} {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	p.Signature = [32]byte(key)
	return p
}

// Session opens a session for the key on behalf of [Principal].
func Session(e *appliance.Endpoint, accessKeyID, secretAccessKey, key string) (*appliance.Session, error) {
	o := &appliance.Outcome{Request: appliance.RequestContext{Principal: Principal, Key: key}}
	return e.Open(Proof(accessKeyID, secretAccessKey, "a request"), o)
}
