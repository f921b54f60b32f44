package xks

import (
	"net/http"
	"time"
)

// Outcome is what became of a request.
type Outcome struct {
	// Operation is the specification's name of it; empty if the path names none.
	Operation string
	// KeyStore is the name of the key store, KeyID the external key; empty if the
	// request did not get that far.
	KeyStore, KeyID string
	// KeyVersion is the version of the key that was used; 0 for none.
	KeyVersion uint32
	// RequestID, KMSOperation, Principal, KMSKeyARN and ViaService are as the
	// request's metadata have them; empty if they were not read.
	RequestID, KMSOperation, Principal, KMSKeyARN, ViaService string
	SourceVPC, SourceVPCE                                     string
	// Policies are those that decided whether the request is allowed.
	Policies []string
	// Signed says whether there was a signature to look at, Skew by how much its
	// clock differed, AccessKeyID whose it claims to be.
	Signed      bool
	Skew        time.Duration
	AccessKeyID string
	// Status is the HTTP status of the answer, ErrorName the specification's name
	// of the error, Reason what the log says of it; empty if there is none. Reference
	// is in the answer of an internal error as well.
	Status                       int
	ErrorName, Reason, Reference string
	Took                         time.Duration
	Remote                       string
}

// outcome sums a request up, as it is answered.
func (req *request) outcome(r *http.Request, status int, err *apiError) *Outcome {
	o := &req.result
	*o = Outcome{Operation: req.operation.name, KeyStore: req.keyStore, KeyID: req.keyID, KeyVersion: req.version, Policies: req.decision.Policies,
		Status: status, Took: time.Since(req.begin), Remote: r.RemoteAddr}
	if m := req.metadata; m != nil {
		if m.KMSRequestID != nil {
			o.RequestID = *m.KMSRequestID
		}
		o.KMSOperation, o.Principal, o.KMSKeyARN, o.ViaService = m.KMSOperation, m.AWSPrincipalARN, m.KMSKeyARN, m.KMSViaService
		o.SourceVPC, o.SourceVPCE = m.AWSSourceVPC, m.AWSSourceVPCE
	}
	if req.claim != nil {
		o.Signed, o.Skew, o.AccessKeyID = true, req.claim.Skew, printable(req.claim.AccessKeyID)
	}
	if err != nil {
		o.ErrorName, o.Reason, o.Reference = string(err.name), err.Error(), err.reference
	}
	return o
}
