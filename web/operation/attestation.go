package operation

import (
	"context"
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

// Boot is what operations need of the boot; [*boot.Boot] is it. Evidence and
// Appraise fail with [progress.ErrNoPlatform] where no hardware gives evidence.
type Boot interface {
	Status() progress.Status
	Evidence(ctx context.Context, nonce []byte) (*attest.Evidence, error)
	Appraise(ctx context.Context, nonce []byte) (*attest.Evidence, *appraisal.Verdict, error)
	// Releases asks the broker that releases the PIN what it has on record about this machine.
	Releases(ctx context.Context) (*progress.Releases, error)
	Seal(ctx context.Context, credential []byte) error
	// PINChallenge gives, for a nonce, by what the machine's owner gives the PIN, and GivePIN
	// takes what the owner has signed: what both give and take is attest/release's.
	PINChallenge(ctx context.Context, nonce []byte) ([]byte, error)
	GivePIN(ctx context.Context, given []byte) error
	Revoke(ctx context.Context, below uint64, approvals bool) error
	// CheckRevoke gives the error that Revoke would, and revokes nothing.
	CheckRevoke(ctx context.Context, below uint64, approvals bool) error
}

// SealRequest has the HSM's PIN sealed to the machine's TPM.
type SealRequest struct {
	PIN Secret `json:"pin" jsonschema:"The PIN of the HSM." example:"MTIzNDU2"`
	// Admission is the digest of those whom the first unlock seals, as the caller saw them.
	// It may be empty if there is nobody to seal, and later.
	Admission string `json:"admission,omitempty" jsonschema:"The digest of the rows that the first unlock would seal, as showAdmission gives it. It may be left out if there is nothing to seal." longest:"128"`
}

// Revocation has the machine's TPM refuse policies of a version below, or approvals.
type Revocation struct {
	Below uint64 `json:"below" jsonschema:"Policies of a lower version than this one are refused from now on." example:"3"`
	// Approvals revokes what the machine's owner has approved, instead of policies: the
	// version is the owner's.
	Approvals bool `json:"approvals,omitempty" jsonschema:"True to refuse what the machine's owner has approved with a lower version, instead of policies." example:"false"`
}

// Nonce asks for evidence that is fresh.
type Nonce struct {
	Nonce string `query:"nonce" about:"random bytes of your own, 16 to 64, in hexadecimal" json:"-"`
	Node  string `query:"node" about:"the node of the fleet whose evidence it is; the one that answers if left out" json:"-"`
}

// AttestationPeers ask the fleet's other nodes for evidence of what they run. What they
// answer is as good as their word: who does not trust it verifies the evidence.
type AttestationPeers interface {
	Evidence(ctx context.Context, node string, nonce string) ([]byte, error)
	Report(ctx context.Context, node string, nonce string) (*Report, error)
}

// elsewhere says whether evidence is asked for of another node.
func (n Nonce) elsewhere(p *Performer) bool { return n.Node != "" && n.Node != p.Node() }

// bytes reads the nonce: fault.Invalid.
func (n Nonce) bytes() ([]byte, error) {
	b, err := hex.DecodeString(n.Nonce)
	if err != nil || len(b) < attest.MinNonce || len(b) > attest.MaxNonce {
		return nil, fault.Errorf(fault.Invalid, "nonce: give one of your own, %d to %d random bytes in hexadecimal", attest.MinNonce, attest.MaxNonce)
	}
	return b, nil
}

// Report is fresh evidence with what the appliance itself finds when it checks
// it. Verify the evidence elsewhere if you do not trust the appliance.
type Report struct {
	// Node is whose it is: the ID of a node of a fleet; absent for an appliance on its own.
	Node string `json:"node,omitempty" jsonschema:"The ID of the node whose evidence this is; absent for an appliance on its own."`
	// Evidence is the file.
	Evidence json.RawMessage    `json:"evidence" jsonschema:"The evidence itself: save it as a file, and verify it with the tool holdfast."`
	Verdict  *appraisal.Verdict `json:"verdict" jsonschema:"What the appliance finds when it appraises its own evidence. Verify the evidence elsewhere if you do not trust the appliance."`
	// State is the head of the stored state that the evidence names; absent if it names none.
	State *attest.State `json:"state,omitempty" jsonschema:"The head of the stored state that the evidence names; absent if it names none."`
	// Events is the firmware's log, which the TPM's registers prove.
	Events []tpm.Event `json:"events" jsonschema:"The firmware's event log, which the TPM's registers prove."`
	// EventsError says why the log cannot be read; empty if it can.
	EventsError string `json:"events_error,omitempty" jsonschema:"Why the event log cannot be read; absent if it can."`
}

// The operations on evidence and on what the TPM keeps.
var (
	ShowEvidence = define(Operation[Nonce, json.RawMessage]{
		Route: Route{ID: "evidence", Method: http.MethodGet, Path: "/attestation", Absent: true, Conflicts: true, Capability: identity.See,
			Words: "Show evidence", Summary: "Fresh evidence of what the machine runs"},
		Run: func(ctx context.Context, c *Caller, in Nonce) (json.RawMessage, error) {
			if !in.elsewhere(c.Performer) {
				return Evidence(ctx, c.Boot, in)
			}
			if c.AttestationPeers == nil {
				return nil, noSuchNode(in.Node)
			}
			if _, err := in.bytes(); err != nil {
				return nil, err
			}
			return c.AttestationPeers.Evidence(ctx, in.Node, in.Nonce)
		},
	})
	ShowReport = define(Operation[Nonce, *Report]{
		Route: Route{ID: "attestationReport", Method: http.MethodGet, Path: "/attestation/report", Absent: true, Conflicts: true, Capability: identity.See,
			Words: "Show attestation report", Summary: "Fresh evidence with each check and the firmware's event log"},
		Run: func(ctx context.Context, c *Caller, in Nonce) (*Report, error) {
			if !in.elsewhere(c.Performer) {
				r, err := MakeReport(ctx, c.Boot, in)
				if err == nil {
					r.Node = c.Node()
				}
				return r, err
			}
			if c.AttestationPeers == nil {
				return nil, noSuchNode(in.Node)
			}
			if _, err := in.bytes(); err != nil {
				return nil, err
			}
			r, err := c.AttestationPeers.Report(ctx, in.Node, in.Nonce)
			if err == nil {
				r.Node = in.Node
			}
			return r, err
		},
	})
	// ShowReleases asks the broker.
	ShowReleases = define(Operation[Nothing, *progress.Releases]{
		Route: Route{ID: "releases", Method: http.MethodGet, Path: "/attestation/releases", Absent: true, Conflicts: true, Capability: identity.See,
			Words: "Show releases by the broker", Summary: "What the broker that releases the PIN has on record about this machine"},
		Run: func(ctx context.Context, c *Caller, _ Nothing) (*progress.Releases, error) {
			return c.Boot.Releases(ctx)
		},
	})
	Seal = define(Operation[SealRequest, Nothing]{
		Route: Route{ID: "seal", Method: http.MethodPost, Path: "/seal", Capability: identity.Administer, Outside: true, Effects: Decides, Alone: "it gives the PIN to an appliance that is locked, where nobody can tell who a second person is", WhileLocked: true, Urgency: Ordinary,
			Words: "Seal PIN", Summary: "Seal the HSM's PIN to this machine's TPM"},
		Subject: apart[SealRequest],
		Run: func(ctx context.Context, c *Caller, in SealRequest) (Nothing, error) {
			if err := admit(ctx, c, in.Admission); err != nil {
				return Nothing{}, err
			}
			return Nothing{}, c.Boot.Seal(ctx, in.PIN)
		},
	})
	RevokePolicies = define(Operation[Revocation, Nothing]{
		Route: Route{ID: "revokePolicies", Method: http.MethodPost, Path: "/seal/revoke", Capability: identity.Administer, Outside: true, Effects: Destroys, Urgency: Independent,
			Words: "Revoke older policies", Summary: "Have this machine's TPM refuse policies of older versions, or its owner's approvals, for good"},
		Subject: apart[Revocation],
		Check: func(ctx context.Context, c *Caller, in Revocation) error {
			return c.Boot.CheckRevoke(ctx, in.Below, in.Approvals)
		},
		Run: func(ctx context.Context, c *Caller, in Revocation) (Nothing, error) {
			return Nothing{}, c.Boot.Revoke(ctx, in.Below, in.Approvals)
		},
	})
)

// Evidence makes an evidence file for a nonce. Errors: fault.Invalid; fault.Conflict
// where there is no hardware that gives evidence.
func Evidence(ctx context.Context, b Boot, in Nonce) ([]byte, error) {
	n, err := in.bytes()
	if err != nil {
		return nil, err
	}
	e, err := b.Evidence(ctx, n)
	if err != nil {
		return nil, noEvidence(err)
	}
	return e.Encode()
}

// PINPath is where the machine's owner asks for a challenge, by GET with a nonce, and gives
// the PIN, by POST. The owner's signature is what authenticates.
const PINPath = "/pin"

// PINChallenge gives, for a nonce, by what the machine's owner gives the PIN. Errors: those
// of [Evidence]; and those of a machine that takes no PIN.
func PINChallenge(ctx context.Context, b Boot, in Nonce) ([]byte, error) {
	n, err := in.bytes()
	if err != nil {
		return nil, err
	}
	text, err := b.PINChallenge(ctx, n)
	if err != nil {
		return nil, noEvidence(err)
	}
	return text, nil
}

func noEvidence(err error) error {
	if errors.Is(err, progress.ErrNoPlatform) {
		return fault.Errorf(fault.Conflict, "%s", err)
	}
	return err
}

// MakeReport makes evidence for a nonce, and checks it. Errors: those of [Evidence].
func MakeReport(ctx context.Context, b Boot, in Nonce) (*Report, error) {
	n, err := in.bytes()
	if err != nil {
		return nil, err
	}
	e, verdict, err := b.Appraise(ctx, n)
	if err != nil {
		return nil, noEvidence(err)
	}
	text, err := e.Encode()
	if err != nil {
		return nil, err
	}
	r := &Report{Evidence: text, Verdict: verdict, State: e.State, Events: []tpm.Event{}}
	if e.TPM != nil {
		if r.Events, err = e.TPM.Events(); err != nil {
			r.Events, r.EventsError = []tpm.Event{}, err.Error()
		}
	}
	return r, nil
}
