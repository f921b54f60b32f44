package appliance

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/appliance/fault"
)

// Standing says whether requests of KMS are answered, by the appliance, a key store, a key or
// with a credential, and what decides that. It is computed whenever somebody asks, and never
// stored. The endpoint refuses by the same functions ([refusal]), so that what is shown and what
// is done cannot differ.
type Standing struct {
	Serves bool          `json:"serves" jsonschema:"Whether requests of KMS are answered." example:"false"`
	State  StandingState `json:"state" jsonschema:"The standing in one word." example:"blocked"`
	Says   string        `json:"says" jsonschema:"The standing in one sentence." example:"everything is blocked: suspected leak"`
	// Decides is what the decision was made about: a key that serves nothing since everything is
	// blocked has DecidesEverything.
	Decides Decider `json:"decides" jsonschema:"What decides: this node, everything, the key store, the key or the credential." example:"everything"`
	// Code is the registry's; empty where no code says more than State.
	Code fault.Code `json:"code,omitempty" jsonschema:"The code of why not, as the page /codes explains it; missing where the state says all." example:"E_FLEET_STALE"`
	// Block is the block that decides; zero if none does.
	Block Block `json:"block,omitzero" jsonschema:"The block that decides; missing if none does."`
}

// StandingState is a standing in one word. These are the words of console, API and command line.
type StandingState string

// The states, those that serve first.
const (
	StandingServing StandingState = "serving"
	// StandingDegraded serves, and something needs attention: an HSM is away, a key store does
	// not serve, evidence could not be renewed. A key store has it while no HSM does its work in
	// time: of its keys, those that never leave the HSM do not serve.
	StandingDegraded StandingState = "degraded"
	// StandingDrained and StandingFading serve, and new requests are to go to other nodes.
	StandingDrained StandingState = "drained"
	StandingFading  StandingState = "fading"

	// StandingStarting: the boot has not come to serve yet.
	StandingStarting StandingState = "starting"
	StandingLocked   StandingState = "locked"
	// StandingHeld: the stored state is not what it should be, and waits for a person.
	StandingHeld StandingState = "held"
	// StandingStale: the node of a fleet may lack a change.
	StandingStale StandingState = "stale"
	// StandingUnrecorded: the audit log takes no records.
	StandingUnrecorded StandingState = "unrecorded"
	// StandingOut: the key store, or all of them, or a row could not be read or opened.
	StandingOut     StandingState = "out_of_service"
	StandingBlocked StandingState = "blocked"
	// StandingNoCredential: the key store has no SigV4 credential by which KMS could sign.
	StandingNoCredential StandingState = "no_credential"
	// StandingInactive: the credential was deactivated.
	StandingInactive          StandingState = "inactive"
	StandingDisabled          StandingState = "disabled"
	StandingPendingDeletion   StandingState = "pending_deletion"
	StandingDeletionSuspended StandingState = "deletion_suspended"
	// StandingHSMAway: the key never leaves the HSM, and no HSM does its work in time.
	StandingHSMAway StandingState = "hsm_away"
)

// StandingStates gives all states.
func StandingStates() []StandingState {
	return []StandingState{StandingServing, StandingDegraded, StandingDrained, StandingFading, StandingStarting, StandingLocked, StandingHeld, StandingStale,
		StandingUnrecorded, StandingOut, StandingBlocked, StandingNoCredential, StandingInactive, StandingDisabled, StandingPendingDeletion, StandingDeletionSuspended, StandingHSMAway}
}

// Decider is what a standing was decided about.
type Decider string

// The deciders.
const (
	DecidesNode       Decider = "node" // this appliance
	DecidesEverything Decider = "everything"
	DecidesKeyStore   Decider = "key_store"
	DecidesKey        Decider = "key"
	DecidesCredential Decider = "credential"
)

// refusal is a standing that does not serve, with the error by which requests are refused. A
// nil refusal is for what serves.
type refusal struct {
	Standing
	err error
}

func (r *refusal) error() error {
	if r == nil {
		return nil
	}
	return r.err
}

// serving is the standing of what serves.
func serving(by Decider) Standing {
	return Standing{Serves: true, State: StandingServing, Says: "requests are answered", Decides: by}
}

// node gives the live view, or why this node refuses each request.
func (s *Service) node() (*view, *refusal) {
	v, locked := s.unlocked()
	if locked != nil {
		return nil, locked
	}
	return v, s.lacking()
}

// lacking refuses while this node of a fleet may lack a change.
func (s *Service) lacking() *refusal {
	err := s.fleet.Fresh()
	if err == nil {
		return nil
	}
	return &refusal{Standing{State: StandingStale, Says: fault.ReasonOf(err), Decides: DecidesNode, Code: fault.CodeOf(err)}, err}
}

// unrecorded refuses while the audit log takes no records. Requests are refused by the log
// itself ([Session.record]), after all else.
func (s *Service) unrecorded() *refusal {
	if s.recorder == nil {
		return nil
	}
	err := s.recorder.Ready()
	if err == nil {
		return nil
	}
	return &refusal{Standing{State: StandingUnrecorded, Says: "the audit log takes no records, and what cannot be recorded is not answered: " + fault.ReasonOf(err),
		Decides: DecidesNode, Code: fault.CodeOf(err)}, err}
}

// out refuses while the key store is out of service.
func (e *Endpoint) out() *refusal {
	if e.fault == nil {
		return nil
	}
	return &refusal{Standing{State: StandingOut, Says: fault.ReasonOf(e.fault), Decides: DecidesKeyStore, Code: fault.CodeOf(e.fault)}, e.fault}
}

// blocks refuses while everything, or the key store, is blocked.
func (e *Endpoint) blocks() *refusal {
	switch {
	case e.blocked.IsZero():
		return nil
	case e.everything:
		return blockedBy(e.blocked, DecidesEverything, "everything")
	}
	return blockedBy(e.blocked, DecidesKeyStore, fmt.Sprintf("key store %q", e.store.Name))
}

func blockedBy(b Block, by Decider, what string) *refusal {
	return &refusal{Standing{State: StandingBlocked, Says: what + " is blocked" + b.whom() + ": " + b.Reason, Decides: by, Block: b},
		fault.Errorf(fault.Conflict, "the external key is blocked: %s", b.Reason)}
}

// refuses says why no data are encrypted or decrypted under the key: the blocks of everything,
// of the key store and of the key, and the key's own state. Nil if they are.
func (e *Endpoint) refuses(k *ExternalKey) *refusal {
	if r := e.blocks(); r != nil {
		return r
	}
	if !k.Blocked.IsZero() {
		return blockedBy(k.Blocked, DecidesKey, fmt.Sprintf("key %q", k.ID))
	}
	var state StandingState
	var says string
	switch k.State {
	case KeyEnabled:
		return nil
	case KeyPendingDeletion:
		state, says = StandingPendingDeletion, fmt.Sprintf("key %q is destroyed at %s", k.ID, k.DeletionAt.UTC().Format(time.RFC3339))
	case KeyDeletionSuspended:
		state, says = StandingDeletionSuspended, fmt.Sprintf("the deletion of key %q was pending in the restored backup, and is suspended", k.ID)
	default:
		state, says = StandingDisabled, fmt.Sprintf("key %q is disabled", k.ID)
	}
	return &refusal{Standing{State: state, Says: says, Decides: DecidesKey}, fault.Errorf(fault.Conflict, "the external key is not enabled")}
}

// Standing gives that of the appliance. It asks no HSM.
func (s *Service) Standing() Standing {
	v, r := s.recording()
	if r != nil {
		return r.Standing
	}
	if !v.blocked.IsZero() {
		return blockedBy(v.blocked, DecidesEverything, "everything").Standing
	}
	out, blocked := v.refusing()
	some := v.note()
	st := serving(DecidesNode)
	degraded := func(code fault.Code, says string) {
		st.State, st.Code, st.Says = StandingDegraded, code, says
	}
	switch _, why := s.Condition(); {
	case some != "" && out+blocked == len(v.byID):
		st = Standing{State: StandingBlocked, Says: some, Decides: DecidesKeyStore}
		if out > 0 {
			st.State, st.Code = StandingOut, fault.KeyStoreOut
		}
	case s.fleet.Fading():
		st.State, st.Says = StandingFading, "it stops soon unless it hears that it lacks no change"
	case s.fleet.Drained():
		st.State, st.Says = StandingDrained, "it is drained: requests are answered, and new ones are to go to other nodes"
	case why != nil:
		degraded(why.Code, fault.ReasonOf(why))
	case some != "":
		degraded("", some)
	}
	return st
}

// Standings gives the standing of each key store, by its name; none while this node refuses all
// requests. It reads no rows.
func (s *Service) Standings() map[string]Standing {
	st := s.standings()
	all := map[string]Standing{}
	if st.view == nil || st.node != nil {
		return all
	}
	for id, e := range st.view.byID {
		all[e.store.Name] = st.keyStore(id)
	}
	return all
}

// recording gives the live view, or why this node answers no request of any key store.
func (s *Service) recording() (*view, *refusal) {
	v, r := s.node()
	if r == nil {
		r = s.unrecorded()
	}
	return v, r
}

// refusing counts the key stores that are out of service, and those that are blocked.
func (v *view) refusing() (out, blocked int) {
	for _, e := range v.byID {
		switch {
		case e.out() != nil:
			out++
		case e.blocks() != nil:
			blocked++
		}
	}
	return out, blocked
}

// note says how many key stores do not serve; empty if all do.
func (v *view) note() string {
	out, blocked := v.refusing()
	if out+blocked == 0 {
		return ""
	}
	return fmt.Sprintf("of %d key stores %d are out of service and %d blocked", len(v.byID), out, blocked)
}

// standings give those of key stores, keys and credentials, as they are at one moment.
type standings struct {
	service *Service
	view    *view
	node    *refusal
	// hsmAway says why no HSM does its work in time; empty if one does, or none was asked yet.
	hsmAway string
	// unmatched are the sets of rows that are known not to match their manifests.
	unmatched []string
}

func (s *Service) standings() standings {
	v, r := s.recording()
	st := standings{service: s, view: v, node: r, unmatched: s.damaged()}
	if hsms := s.health.last(); len(hsms) > 0 && !slices.ContainsFunc(hsms, func(h HSMHealth) bool { return !h.fails }) {
		st.hsmAway = hsms[0].Error
	}
	return st
}

// stops says why no key of the key store serves; nil if nothing stops all of them.
func (st *standings) stops(keyStore string) (*Endpoint, *refusal) {
	if st.node != nil {
		return nil, st.node
	}
	e := st.view.byID[keyStore]
	if e == nil {
		return nil, &refusal{Standing: Standing{State: StandingOut, Says: "the key store is new at this node and was not opened yet", Decides: DecidesKeyStore}}
	}
	if r := e.out(); r != nil {
		return e, r
	}
	if r := e.blocks(); r != nil {
		return e, r
	}
	return e, nil
}

// unsigned says that KMS has no credential to sign requests with; nil if it has.
func (e *Endpoint) unsigned() *refusal {
	if len(e.credentials) > 0 {
		return nil
	}
	return &refusal{Standing: Standing{State: StandingNoCredential, Decides: DecidesKeyStore,
		Says: fmt.Sprintf("key store %q has no active SigV4 credential by which KMS could sign", e.store.Name)}}
}

// keyStore gives the standing of a key store.
func (st *standings) keyStore(keyStore string) Standing {
	e, r := st.stops(keyStore)
	if r == nil {
		r = e.unsigned()
	}
	switch {
	case r != nil:
		return r.Standing
	case st.hsmAway != "":
		return Standing{Serves: true, State: StandingDegraded, Decides: DecidesNode, Code: fault.HSMAway,
			Says: "keys in memory serve, and those that never leave the HSM do not, as no HSM does its work in time: " + st.hsmAway}
	}
	return serving(DecidesKeyStore)
}

// key gives the standing of a key, whose row matches its seal.
func (st *standings) key(k *ExternalKey) Standing {
	e, r := st.stops(k.KeyStore)
	if r == nil {
		r = e.refuses(k)
	}
	if r == nil {
		r = e.unsigned()
	}
	switch {
	case r != nil && k.DeletionWaits != "" && r.State == StandingPendingDeletion:
		r.Says = fmt.Sprintf("key %q is not destroyed yet: %s", k.ID, k.DeletionWaits)
		return r.Standing
	case r != nil:
		return r.Standing
	case k.Custody == CustodyHSM && st.hsmAway != "":
		return Standing{State: StandingHSMAway, Decides: DecidesNode, Code: fault.HSMAway, Says: "the key never leaves the HSM, and no HSM does its work in time: " + st.hsmAway}
	}
	return serving(DecidesKey)
}

// damaged is the standing of a key whose row does not match its seal.
func (st *standings) damaged(k *ExternalKey, why error) Standing {
	if _, r := st.stops(k.KeyStore); r != nil && r.Decides != DecidesKeyStore {
		return r.Standing
	}
	return Standing{State: StandingOut, Says: fmt.Sprintf("key %q does not match its seal, and is refused: %s", k.ID, fault.ReasonOf(why)), Decides: DecidesKey, Code: fault.Tampered}
}

// credential gives the standing of a credential.
func (st *standings) credential(c *Credential) Standing {
	e, r := st.stops(c.KeyStore)
	switch {
	case !c.Active && (r == nil || r.Decides != DecidesNode):
		return Standing{State: StandingInactive, Says: "signatures with it are refused", Decides: DecidesCredential}
	case r != nil:
		return r.Standing
	case e.credentials[c.AccessKeyID] == nil:
		return Standing{State: StandingOut, Says: "its row does not open, and signatures with it are refused", Decides: DecidesCredential, Code: fault.Tampered}
	}
	return serving(DecidesCredential)
}

// stand sets the standings of key stores.
func (s *Service) stand(stores ...*KeyStore) {
	st := s.standings()
	for _, ks := range stores {
		ks.Standing = st.keyStore(ks.ID)
	}
}

// standCredentials sets the standings of credentials of one key store.
func (s *Service) standCredentials(credentials ...*Credential) {
	st := s.standings()
	for _, c := range credentials {
		c.Standing = st.credential(c)
	}
}

// standKeys sets the standings of keys.
func (s *Service) standKeys(ctx context.Context, keys ...*ExternalKey) {
	st := s.standings()
	st.keys(ctx, keys...)
}

// keys sets the standings of keys.
func (st *standings) keys(ctx context.Context, keys ...*ExternalKey) {
	for _, k := range keys {
		k.Standing = st.key(k)
		if st.view == nil {
			continue
		}
		if err := st.check(ctx, k); err != nil {
			k.Standing = st.damaged(k, err)
		}
	}
}

// check holds a key's row against its seal. One that does not match, or whose set does not match
// its manifest, is read by itself: the store compares it with the manifest then, and notes the set
// that does not match, so that the key is found where keys that are out of service are looked for.
func (st *standings) check(ctx context.Context, k *ExternalKey) error {
	err := st.view.ring.Verify(k.Binding(), k.Seal)
	if err == nil && !slices.Contains(st.unmatched, KeySet(k.KeyStore, k.ID)) {
		return nil
	}
	stored, e := st.service.store.Key(ctx, k.KeyStore, k.ID)
	if err == nil {
		err = e
	}
	if err == nil {
		err = checkKey(st.view.ring, stored, k.KeyStore, k.ID)
	}
	return err
}

// narrowed is where to look for keys with a standing: all of them are in the page of the store,
// and in the sets if that is not nil. Others are there as well.
type narrowed struct {
	Page
	sets []string
}

func (n *narrowed) has(k *ExternalKey) bool {
	return n.sets == nil || slices.Contains(n.sets, KeySet(k.KeyStore, k.ID))
}

// narrow says where to look for keys that stand so; nil if there are none. It follows the order
// in which [standings.key] decides.
func (st *standings) narrow(keyStore string, page Page, want StandingState) *narrowed {
	e, r := st.stops(keyStore)
	look := &narrowed{Page: page}
	switch {
	case r != nil && r.State == want:
		return look // all, but for those that do not match their seals
	case want == StandingOut && (r == nil || r.Decides == DecidesKeyStore):
		for _, set := range st.unmatched {
			if strings.HasPrefix(set, keyStore) {
				look.sets = append(look.sets, set)
			}
		}
		if look.sets == nil {
			return nil
		}
		look.Limit = MaxPage
		return look
	case r != nil:
		return nil
	}
	return e.narrow(look, st.hsmAway != "", want)
}

// narrow is that of [standings], for a key store that nothing stops.
func (e *Endpoint) narrow(look *narrowed, hsmAway bool, want StandingState) *narrowed {
	look.Unblocked = true
	switch want {
	case StandingBlocked:
		look.State, look.Unblocked = KeyBlocked, false
		return look
	case StandingDisabled:
		look.State = KeyDisabled
		return look
	case StandingPendingDeletion:
		look.State = KeyPendingDeletion
		return look
	case StandingDeletionSuspended:
		look.State = KeyDeletionSuspended
		return look
	}
	custody, signed := CustodyCached, e.unsigned() == nil
	look.State = KeyEnabled
	switch {
	case want == StandingNoCredential && !signed, want == StandingServing && signed && !hsmAway:
		return look
	case want == StandingHSMAway && signed && hsmAway:
		custody = CustodyHSM
	case want != StandingServing || !signed:
		return nil
	}
	if look.Custody != "" && look.Custody != custody {
		return nil
	}
	look.Custody = custody
	return look
}
