package authz

import (
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cedar-policy/cedar-go"
)

// Request is what a decision is about: the operation, and what AWS KMS says of
// the call behind it (spec, requestMetadata). Only Principal and Operation are
// always there.
type Request struct {
	// Principal is awsPrincipalArn: an ARN, a service, or "AWS Internal".
	Principal    string    `json:"principal"`
	Operation    Operation `json:"operation"`
	KMSOperation string    `json:"kms_operation,omitempty"`
	ViaService   string    `json:"via_service,omitempty"`
	SourceVPC    string    `json:"source_vpc,omitempty"`
	SourceVPCE   string    `json:"source_vpce,omitempty"`
	KMSKeyARN    string    `json:"kms_key_arn,omitempty"`

	// KeyStore is the key store's name, Key the external key's ID.
	KeyStore string `json:"-"`
	Key      string `json:"-"`
	// Time is when the request came.
	Time time.Time `json:"-"`
}

// Decision is what becomes of a request, and why.
type Decision struct {
	Allowed bool `json:"allowed" jsonschema:"Whether the request would be allowed."`
	// Policies are the IDs of those that decided, sorted: grants, and policies
	// written by hand as "policy:" and their name. None if no policy allows the
	// request.
	Policies []string `json:"policies" jsonschema:"The IDs of the grants and policies that decided; a policy written by hand is \"policy:\" and its name. Empty if no policy allows the request."`
	// Faults are policies that could not be evaluated, with the reason, sorted.
	// One that forbids is then taken to forbid; one that permits, not to permit.
	Faults []string `json:"faults,omitempty" jsonschema:"The policies that could not be evaluated, with the reason. One that forbids counts as forbidding then, one that permits does not count."`
}

// String says the decision in a few words.
func (d Decision) String() string {
	switch {
	case d.Allowed:
		return "allowed by " + strings.Join(d.Policies, ", ")
	case len(d.Policies) > 0:
		return "forbidden by " + strings.Join(d.Policies, ", ")
	}
	return "no grant allows it"
}

// Decide decides about the request by the policies of all the sets.
func Decide(r *Request, sets ...*Set) Decision {
	d, _ := decide(r, sets)
	return d
}

// decide also says what those policies could see that may have decided.
func decide(r *Request, sets []*Set) (Decision, attributes) {
	e := evaluations.Get().(*evaluation)
	defer e.release()
	e.request = r
	e.arn, e.isARN = splitARN(r.Principal)
	if e.isARN && isAccount(e.arn.account) {
		e.account = e.arn.account
	}
	for _, s := range sets {
		e.candidates = s.candidates(e.candidates, r, e.account)
	}
	if len(e.candidates) == 0 {
		return Decision{}, 0
	}
	for _, p := range e.candidates {
		e.see |= p.attribute
	}
	allowed, why := cedar.Authorize(e, e, cedar.Request{
		Principal: uid(typePrincipal, r.Principal),
		Action:    uid(typeAction, string(r.Operation)),
		Resource:  uid(typeKey, r.Key),
		Context:   e.record(contextTime, contextAll),
	})
	return e.decision(bool(allowed), why), e.see
}

// evaluation is one decision under way. It gives Cedar the candidates and the
// entities.
type evaluation struct {
	request    *Request
	arn        arn
	isARN      bool
	account    string
	see        attributes
	candidates []*Policy
	principal  cedar.Entity
	made       bool // principal is
}

var evaluations = sync.Pool{New: func() any { return new(evaluation) }}

func (e *evaluation) release() {
	clear(e.candidates)
	*e = evaluation{candidates: e.candidates[:0]}
	evaluations.Put(e)
}

// All gives Cedar the candidates.
func (e *evaluation) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for _, p := range e.candidates {
			if !yield(cedar.PolicyID(p.ID), p.cedar) {
				return
			}
		}
	}
}

// Get gives Cedar an entity. Most policies do not ask for any.
func (e *evaluation) Get(id cedar.EntityUID) (cedar.Entity, bool) {
	switch id.Type {
	case typePrincipal:
		if string(id.ID) != e.request.Principal {
			return cedar.Entity{}, false
		}
		if !e.made {
			e.principal, e.made = e.makePrincipal(id), true
		}
		return e.principal, true
	case typeKey:
		if string(id.ID) != e.request.Key {
			return cedar.Entity{}, false
		}
		return cedar.Entity{UID: id, Parents: cedar.NewEntityUIDSet(uid(typeKeyStore, e.request.KeyStore))}, true
	}
	return cedar.Entity{}, false
}

func (e *evaluation) makePrincipal(id cedar.EntityUID) cedar.Entity {
	p := cedar.Entity{UID: id}
	if e.account != "" {
		p.Parents = cedar.NewEntityUIDSet(uid(typeAccount, e.account))
	}
	p.Attributes = e.record(principalName, principalAll)
	return p
}

// record gives what the candidates can see of the attributes from first on in
// all.
func (e *evaluation) record(first, all attributes) cedar.Record {
	if e.see&all == 0 {
		return cedar.Record{}
	}
	values := cedar.RecordMap{}
	for a := first; a&all != 0; a <<= 1 {
		if e.see&a == 0 {
			continue
		}
		if v := e.value(a); v != nil {
			values[nameOf[a]] = v
		}
	}
	return cedar.NewRecord(values)
}

// value gives the attribute, or nil if the request does not have it.
func (e *evaluation) value(a attributes) cedar.Value {
	r := e.request
	switch a {
	case principalName:
		return cedar.String(r.Principal)
	case contextTime:
		return cedar.NewDatetime(r.Time)
	case contextMatches:
		return e.matches()
	case principalPartition, principalService, principalRegion, principalAccount, principalResource:
		if !e.isARN {
			return nil
		}
		return cedar.String(e.text(a)) // a part may be empty
	}
	if text := e.text(a); text != "" {
		return cedar.String(text)
	}
	return nil
}

// text gives an attribute that is a text; empty if the request does not have it.
func (e *evaluation) text(a attributes) string {
	r := e.request
	switch a {
	case principalName:
		return r.Principal
	case principalPartition:
		return e.arn.partition
	case principalService:
		return e.arn.service
	case principalRegion:
		return e.arn.region
	case principalAccount:
		return e.arn.account
	case principalResource:
		return e.arn.resource
	case contextKMSOperation:
		return r.KMSOperation
	case contextViaService:
		return r.ViaService
	case contextSourceVPC:
		return r.SourceVPC
	case contextSourceVPCE:
		return r.SourceVPCE
	case contextKMSKeyARN:
		return r.KMSKeyARN
	case contextKMSKeyRegion, contextKMSKeyAccount:
		key, _ := splitARN(r.KMSKeyARN)
		if a == contextKMSKeyRegion {
			return key.region
		}
		return key.account
	}
	return ""
}

// matches gives the patterns with "?" of the candidates that match.
func (e *evaluation) matches() cedar.Value {
	var matched []cedar.Value
	for _, p := range e.candidates {
		for _, g := range p.globs {
			if match(g.pattern, e.text(attributeNames[[2]string{g.of, g.attribute}])) {
				matched = append(matched, cedar.String(g.String()))
			}
		}
	}
	return cedar.NewSet(matched...)
}

// decision puts Cedar's answer into ours. Cedar leaves out a policy that fails;
// so that nothing is allowed by a failure, a failing policy that forbids counts.
func (e *evaluation) decision(allowed bool, why cedar.Diagnostic) Decision {
	d := Decision{Allowed: allowed, Policies: make([]string, 0, len(why.Reasons))}
	for _, reason := range why.Reasons {
		d.Policies = append(d.Policies, string(reason.PolicyID))
	}
	for _, fault := range why.Errors {
		d.Faults = append(d.Faults, string(fault.PolicyID)+": "+strings.ReplaceAll(fault.Message, "\n", " "))
		if !e.forbids(string(fault.PolicyID)) {
			continue
		}
		if d.Allowed {
			d.Allowed, d.Policies = false, nil
		}
		d.Policies = append(d.Policies, string(fault.PolicyID))
	}
	slices.Sort(d.Policies)
	slices.Sort(d.Faults)
	return d
}

func (e *evaluation) forbids(id string) bool {
	return slices.ContainsFunc(e.candidates, func(p *Policy) bool { return p.ID == id && p.cedar.Effect() == cedar.Forbid })
}
