package web

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest"
	"holdfast/attest/appraisal"
	"holdfast/attest/tpm"
)

// SealRequest has the HSM's PIN sealed to the machine's TPM.
type SealRequest struct {
	PIN []byte `json:"pin"`
}

// Revocation has the machine's TPM refuse policies of a version below.
type Revocation struct {
	Below uint64 `json:"below"`
}

// Report is fresh evidence with what the appliance itself finds when it checks
// it. Verify the evidence elsewhere if you do not trust the appliance.
type Report struct {
	Evidence json.RawMessage    `json:"evidence"`
	Verdict  *appraisal.Verdict `json:"verdict"`
	// Events is the firmware's log, which the TPM's registers prove.
	Events []tpm.Event `json:"events"`
	// EventsError says why the log cannot be read; empty if it can.
	EventsError string `json:"events_error,omitempty"`
}

var nonceParameter = Parameter{Name: "nonce", Type: "string", Description: "random bytes of your own, 16 to 64, in hexadecimal"}

func attestationRoutes() []Route {
	return []Route{
		{Method: http.MethodGet, Path: "/attestation", ID: "evidence", Capability: identity.See, Query: []Parameter{nonceParameter},
			Summary: "Fresh evidence of what the machine runs",
			handler: gives(func(c *call) (json.RawMessage, error) {
				text, err := evidence(c.Request, c.api.Boot)
				return json.RawMessage(text), err
			})},
		{Method: http.MethodGet, Path: "/attestation/report", ID: "attestationReport", Capability: identity.See, Query: []Parameter{nonceParameter},
			Summary: "Fresh evidence with each check and the firmware's event log",
			handler: gives(report)},
		{Method: http.MethodPost, Path: "/seal", ID: "seal", Capability: identity.Administer, Dangerous: true, WhileLocked: true,
			Summary: "Seal the HSM's PIN to this machine's TPM",
			handler: does(func(c *call, in SealRequest) (nothing, error) {
				defer clear(in.PIN)
				return nothing{}, c.api.Boot.Seal(c.ctx(), in.PIN)
			})},
		{Method: http.MethodPost, Path: "/seal/revoke", ID: "revokePolicies", Capability: identity.Administer, Dangerous: true, Approvable: true,
			Summary: "Have this machine's TPM refuse policies of older versions, for good",
			handler: checked(does(func(c *call, in Revocation) (nothing, error) {
				return nothing{}, c.api.Boot.Revoke(c.ctx(), in.Below)
			}), func(c *call, in Revocation) error { return c.api.Boot.CheckRevoke(c.ctx(), in.Below) })},
	}
}

// nonce reads the one in the query.
func nonce(r *http.Request) ([]byte, error) {
	n, err := hex.DecodeString(r.URL.Query().Get("nonce"))
	if err != nil || len(n) < attest.MinNonce || len(n) > attest.MaxNonce {
		return nil, fault.Errorf(fault.Invalid, "nonce: give one of your own, %d to %d random bytes in hexadecimal", attest.MinNonce, attest.MaxNonce)
	}
	return n, nil
}

// evidence makes an evidence file for the nonce in the query.
func evidence(r *http.Request, b Boot) ([]byte, error) {
	n, err := nonce(r)
	if err != nil {
		return nil, err
	}
	e, err := b.Evidence(r.Context(), n)
	if err != nil {
		return nil, noEvidence(err)
	}
	return e.Encode()
}

func noEvidence(err error) error {
	if errors.Is(err, progress.ErrNoPlatform) {
		return fault.Errorf(fault.Conflict, "%s", err)
	}
	return err
}

func report(c *call) (*Report, error) {
	n, err := nonce(c.Request)
	if err != nil {
		return nil, err
	}
	e, verdict, err := c.api.Boot.Appraise(c.ctx(), n)
	if err != nil {
		return nil, noEvidence(err)
	}
	text, err := e.Encode()
	if err != nil {
		return nil, err
	}
	r := &Report{Evidence: text, Verdict: verdict, Events: []tpm.Event{}}
	if e.TPM != nil {
		if r.Events, err = e.TPM.Events(); err != nil {
			r.Events, r.EventsError = []tpm.Event{}, err.Error()
		}
	}
	return r, nil
}
