package authz

import (
	"hash/maphash"
	"slices"
	"sync/atomic"
)

// Decider decides as [Decide] does, and remembers what was allowed: most requests of KMS
// are those of a few principals under the same policies, and to ask Cedar costs more than
// to encrypt. Its methods may be called concurrently.
//
// A decision is taken from memory only where nothing else can have decided it: for the
// same sets, which do not change, and the same values of all that their policies can see
// of a request (question). Cedar gives the same answer to the same question. What may be
// answered otherwise later, or is worth to be asked again, is not remembered: where a
// policy that may decide can see the time, where one could not be evaluated, and what was
// not allowed.
type Decider struct {
	seed maphash.Seed
	// allowed has one place for each question, by its hash. Another question may have it:
	// the question is compared.
	allowed [remembered]atomic.Pointer[answer]
}

// remembered is how many answers are. Each has some hundred bytes, and at most the few
// texts of one request.
const remembered = 1024

// NewDecider makes a decider that remembers nothing yet.
func NewDecider() *Decider { return &Decider{seed: maphash.MakeSeed()} }

// maxSets is how many sets a question may name: one more is not remembered.
const maxSets = 3

// question is all that a decision depends on, but for the time. What no policy of the sets
// can see is left out.
type question struct {
	sets                                                       [maxSets]*Set
	principal                                                  string
	operation                                                  Operation
	keyStore, key                                              string
	kmsOperation, viaService, sourceVPC, sourceVPCE, kmsKeyARN string
}

type answer struct {
	question
	decision Decision
}

// Decide decides about the request by the policies of all the sets. Policies of the
// decision is not to be changed.
func (d *Decider) Decide(r *Request, sets ...*Set) Decision {
	q, ok := ask(r, sets)
	if !ok {
		decision, _ := decide(r, sets)
		return decision
	}
	place := &d.allowed[d.hash(&q)%remembered]
	if a := place.Load(); a != nil && a.question == q {
		return a.decision
	}
	decision, saw := decide(r, sets)
	if decision.Allowed && len(decision.Faults) == 0 && saw&contextTime == 0 {
		decision.Policies = slices.Clip(decision.Policies)
		place.Store(&answer{q, decision})
	}
	return decision
}

// ask gives the question; false if there are too many sets.
func ask(r *Request, sets []*Set) (q question, ok bool) {
	if len(sets) > maxSets {
		return q, false
	}
	q.principal, q.operation = r.Principal, r.Operation
	var see attributes
	ofKeys := false
	for i, s := range sets {
		if s == nil {
			continue
		}
		q.sets[i] = s
		see |= s.see
		ofKeys = ofKeys || s.ofKeys
	}
	if ofKeys {
		q.keyStore, q.key = r.KeyStore, r.Key
	}
	if see&contextMatches != 0 {
		see = contextAll // patterns may be on any of them
	}
	seen := func(value string, shows attributes) string {
		if see&shows == 0 {
			return ""
		}
		return value
	}
	q.kmsOperation = seen(r.KMSOperation, contextKMSOperation)
	q.viaService = seen(r.ViaService, contextViaService)
	q.sourceVPC = seen(r.SourceVPC, contextSourceVPC)
	q.sourceVPCE = seen(r.SourceVPCE, contextSourceVPCE)
	q.kmsKeyARN = seen(r.KMSKeyARN, contextKMSKeyARN|contextKMSKeyRegion|contextKMSKeyAccount)
	return q, true
}

// hash is for the place alone, so it need not cover all.
func (d *Decider) hash(q *question) uint64 {
	h := maphash.Comparable(d.seed, q.sets)
	for _, text := range [...]string{q.principal, string(q.operation), q.key, q.viaService, q.kmsKeyARN} {
		if text != "" {
			h = h*31 + maphash.String(d.seed, text)
		}
	}
	return h
}
