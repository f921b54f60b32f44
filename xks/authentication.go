package xks

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/xks/sigv4"
)

// authenticate opens a session for the request. What can be refused by the headers
// is refused before the body is read; what decides is asked when the body is there
// ([appliance.Endpoint.Open]), since a caller may take seconds to send it. The body it
// gives is to be released.
func (a *API) authenticate(w http.ResponseWriter, r *http.Request, req *request) (*appliance.Session, *bytes.Buffer, error) {
	claim, err := a.verifier.Parse(r)
	if claim != nil {
		req.outcome.Dated, req.outcome.Skew, req.outcome.Credential = true, claim.Skew, printable(claim.AccessKeyID)
	}
	if err == nil && !req.endpoint.HasCredential(claim.AccessKeyID) {
		err = errors.New("the key store has no such active credential")
	}
	if err != nil {
		if r.ContentLength < 0 || r.ContentLength > maxBody {
			w.Header().Set("Connection", "close") // rather than read all of it
		}
		return nil, nil, authenticationFailed(err)
	}
	body, err := a.readBody(w, r, req)
	if err != nil {
		return nil, nil, err
	}
	session, err := req.open(claim, r, body.Bytes())
	if err == nil || fault.CodeOf(err) == fault.Throttled {
		markAuthenticated(r.Context())
	}
	if err != nil {
		a.release(body)
		return nil, nil, err
	}
	return session, body, nil
}

// open has the domain check the signature.
func (req *request) open(claim *sigv4.Claim, r *http.Request, body []byte) (*appliance.Session, error) {
	toSign, err := claim.StringToSign(r, body)
	if err != nil {
		return nil, authenticationFailed(err)
	}
	req.proof = appliance.Signature{AccessKeyID: claim.AccessKeyID, Date: claim.Date, Region: claim.Region, Service: claim.Service,
		StringToSign: toSign, Signature: claim.Signature}
	return req.endpoint.Open(&req.proof, &req.outcome)
}

// readBody reads the whole body, within the limit of size; the server bounds
// the time ([ServerOptions]).
func (a *API) readBody(w http.ResponseWriter, r *http.Request, req *request) (*bytes.Buffer, error) {
	if r.ContentLength > maxBody {
		w.Header().Set("Connection", "close")
		return nil, bodyTooLarge()
	}
	body := a.bodies.Get().(*bytes.Buffer)
	if r.ContentLength > 0 {
		// A buffer that grows leaves what it held behind. One more byte than the
		// length, for ReadFrom to see the end, and its own minimum.
		body.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	req.body = io.LimitedReader{R: r.Body, N: maxBody + 1}
	if _, err := body.ReadFrom(&req.body); err != nil {
		a.release(body)
		w.Header().Set("Connection", "close")
		return nil, &apiError{name: validationException, message: "the request body did not arrive whole and in time", cause: err}
	}
	if body.Len() > maxBody {
		a.release(body)
		w.Header().Set("Connection", "close")
		return nil, bodyTooLarge()
	}
	return body, nil
}

func bodyTooLarge() error {
	return fail(unsupportedOperationException, fmt.Sprintf("the request body exceeds %d bytes", maxBody))
}

// release zeroizes a body, which may hold a plaintext, and keeps its memory
// for another.
func (a *API) release(body *bytes.Buffer) {
	clear(body.Bytes())
	body.Reset()
	a.bodies.Put(body)
}
