package appliance

import (
	"crypto/subtle"
	"time"

	"holdfast/appliance/fault"
)

// Proof shows that a request comes from a holder of one of the key store's
// credentials. The domain checks it and nobody else: the credentials are its rows.
// A front end with another kind of credential adds a kind of proof to this package.
type Proof interface {
	// prove gives the ID of the credential that is proven. Any error means that the
	// request is not authenticated.
	prove(e *Endpoint) (credential string, err error)
}

// Signature is a proof by AWS Signature Version 4.
type Signature struct {
	AccessKeyID string
	// Date, YYYYMMDD, Region and Service are the credential scope.
	Date, Region, Service string
	// StringToSign covers the request. That it does is the front end's work.
	StringToSign []byte
	// Signature is the one that came with the request.
	Signature [32]byte
}

func (s *Signature) prove(e *Endpoint) (string, error) {
	if s == nil {
		return "", fault.Errorf(fault.Unauthenticated, "the request has no signature")
	}
	c := e.credentials[s.AccessKeyID]
	if c == nil {
		return "", fault.Errorf(fault.Unauthenticated, "the key store has no such active credential")
	}
	want, err := c.unlocked.Sign(s.Date, s.Region, s.Service, s.StringToSign)
	if err != nil {
		return "", err
	}
	if subtle.ConstantTimeCompare(want[:], s.Signature[:]) != 1 {
		return "", fault.Errorf(fault.Unauthenticated, "the signature does not match: the secret access key differs, or the request was changed on its way")
	}
	now := e.service.now()
	if before := time.UnixMilli(c.used.Swap(now.UnixMilli())); now.Sub(before) >= lastUsedEvery {
		e.service.used.wake()
	}
	return s.AccessKeyID, nil
}
