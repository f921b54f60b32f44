package operation

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"reflect"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/activity"
	"holdfast/appliance/approval"
	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/idempotency"
	"holdfast/appliance/identity"
)

// Domain is what operations need of the appliance; [*appliance.Appliance] is it.
type Domain interface {
	KeyStores
	Keys
	Grants
	Credentials
	Blocks
	Backups
	Installations
	Discards
	WholeState
	Clocks
	Admissions
	Standings
	// Status gives the state of keys, HSMs and lease.
	Status(ctx context.Context) appliance.Status
	ProbeHSMs(ctx context.Context) ([]appliance.HSMHealth, error)
}

// Options are what operations work with. All are needed, but Now, Fleet and what says so.
type Options struct {
	Domain Domain
	// Fleet is what this node is in; nil for an appliance on its own.
	Fleet Fleet
	Boot  Boot
	Audit Audit
	// AuditPeers has the logs of other nodes; nil if there is no fleet.
	AuditPeers AuditPeers
	// VerificationPeers verify the logs of other nodes; nil if there is no fleet.
	VerificationPeers VerificationPeers
	// AttestationPeers have evidence of other nodes; nil if there is no fleet.
	AttestationPeers AttestationPeers
	Journal          Journal
	Identity         *identity.Directory
	Approvals        ApprovalStore
	// Settings has which operations need a second person.
	Settings approval.Settings
	// Answers and Seals keep what was answered to requests with an idempotency key; nil if the
	// process alone remembers it.
	Answers  idempotency.Store
	Seals    idempotency.Seals
	Activity *activity.Recorder
	// ActivityPeers has what other nodes have counted; nil if there is no fleet.
	ActivityPeers ActivityPeers
	Site          Site
	// Policies are the appraisal policies of this machine.
	Policies Policies
	// Launches are its launch files; nil if it takes none.
	Launches Launches
	// Notices tells people of requests for approval; nil if nobody is told.
	Notices Notices
	// Decided, if given, counts requests for approval: each by the state that it comes to, and
	// [approval.Pending] when it is made.
	Decided func(approval.State)
	Log     *slog.Logger
	// Recorded, if given, is called when a change is on record, before it is answered.
	Recorded func(ctx context.Context) error
	// Still gives a caller as they are now, as [identity.Directory.Still] does, which it is
	// if nil.
	Still func(ctx context.Context, was identity.Principal) (identity.Principal, error)
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Performer performs operations. An appliance has one.
type Performer struct {
	Options
	turns      turns
	checks     verification
	acceptance acceptance
	answers    *idempotency.Keeper
	strangers  strangers
}

// New makes a performer.
func New(o Options) *Performer {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Still == nil {
		o.Still = o.Identity.Still
	}
	return &Performer{Options: o, answers: idempotency.NewKeeper(o.Answers, o.Seals, o.Now, o.Log), strangers: newStrangers()}
}

// Node is the ID of this node; empty for an appliance on its own, and before its audit log is
// open.
func (p *Performer) Node() string {
	if p.AuditPeers == nil {
		return ""
	}
	return p.AuditPeers.Node()
}

// Caller is who has operations performed. A listener has found out who that is.
type Caller struct {
	*Performer
	Who identity.Principal
	// Remote is the address that the caller has; empty on the machine itself.
	Remote string
	// Reason says why, for the person who approves, if the operation needs one.
	Reason string
	// Revision is that of the subject as the caller saw it; empty for any.
	Revision string
	// IdempotencyKey has a change done once, however often it is asked for; empty for none.
	// [Route.Perform] then gives an [*Answered].
	IdempotencyKey string

	approvedBy string // the name of who approved; empty if nobody was asked
	approval   string // the ID of the request for approval
	// approvalReason says why it was approved; Reason is that of the request then.
	approvalReason string
	// goesOn says why the operation at hand, which is done in parts, must stop: its caller may not
	// any more, or nothing can be recorded. Nil where nothing is done.
	goesOn func(ctx context.Context) error
}

// As gives a caller.
func (p *Performer) As(who identity.Principal, remote string) *Caller {
	return &Caller{Performer: p, Who: who, Remote: remote}
}

// Seeing gives the caller with the revision of what they saw.
func (c *Caller) Seeing(revision string) *Caller {
	seeing := *c
	seeing.Revision = revision
	return &seeing
}

// Request is an input that is read once it is known that the caller may perform
// the operation.
type Request struct {
	// Path gives the parameters of the path by their names, for the record.
	Path func(name string) string
	Read func() (any, error)
}

// performance is one performance of an operation.
type performance struct {
	*Caller
	route *Route
	path  func(name string) string
	in    any // nil until it was read
	// stored is what the request for approval is about that is decided; empty otherwise.
	stored thing
	run    *idempotency.Run // of a request with an idempotency key; nil without one
	// unseen says that the caller does not get an answer that was given before.
	unseen bool
}

// Perform is [Operation.Do] for an operation whose types the caller does not know:
// it gives a Done of the operation's type.
func (r *Route) Perform(ctx context.Context, c *Caller, q Request) (any, error) {
	return (&performance{Caller: c, route: r, path: q.Path}).request(ctx, q.Read)
}

// request performs the operation if the caller may, with the input that is read then.
func (p *performance) request(ctx context.Context, read func() (any, error)) (any, error) {
	err := p.may(p.route)
	if err == nil {
		err = p.inScope(ctx)
	}
	if err != nil {
		p.refused(ctx, err)
		return nil, err
	}
	in, err := read()
	if err == nil {
		err = p.route.fields.valid(in)
	}
	if err != nil {
		p.unusable(ctx, err)
		return nil, err
	}
	defer wipe(reflect.ValueOf(in))
	p.in = in
	if err := p.inScope(ctx); err != nil {
		p.refused(ctx, err)
		return nil, err
	}
	return p.perform(ctx)
}

// perform performs an operation that the caller may perform, or files it.
func (p *performance) perform(ctx context.Context) (any, error) {
	if !p.route.Mutates() && !p.route.Guards().FourEyes {
		return p.read(ctx)
	}
	if err := p.stillMay(ctx); err != nil {
		return nil, err
	}
	if p.IdempotencyKey != "" && p.route.Changes() {
		done, err := p.once(ctx)
		if answered, ok := done.(*Answered); ok && answered.Replayed && !p.unseen && err == nil {
			err = p.shownAgain(ctx, answered.Answer)
		}
		return done, err
	}
	return p.now(ctx)
}

// now performs it, or files it, whatever was done before.
func (p *performance) now(ctx context.Context) (any, error) {
	if approved, ok := p.in.(interface{ approval() string }); ok && approved.approval() != "" {
		return p.readApproved(ctx, approved.approval())
	}
	if needs, err := p.NeedsApproval(ctx, p.route); err != nil {
		p.unusable(ctx, err)
		return nil, err
	} else if needs {
		return nil, p.file(ctx)
	}
	if !p.route.Mutates() {
		return p.read(ctx)
	}
	out, err := p.change(ctx)
	if err != nil {
		return nil, err
	}
	var effect *Effect
	if p.route.Changes() {
		effect = p.effect(ctx)
	}
	return p.route.done(out, effect), nil
}

// read performs an operation that changes nothing. If something leaves the appliance
// by it, that is recorded before.
func (p *performance) read(ctx context.Context) (any, error) {
	out, err := p.route.run(ctx, p.Caller, p.in)
	if p.route.Recorded {
		rec := p.record(audit.Allowed, nil)
		if err != nil {
			rec = p.record(audit.Failed, err)
		}
		rec.Asked = p.asked()
		stream, streams := out.(Stream)
		if err == nil && streams {
			rec.After = encoded(stream.About)
		}
		if auditErr := p.write(ctx, rec); auditErr != nil && err == nil {
			stream.close()
			err = auditErr
		}
	}
	if err != nil {
		return nil, err
	}
	return p.route.done(out, nil), nil
}

// change performs a change, and has it recorded with what it is about as it was
// before and after. If nothing can be recorded, nothing is done.
func (p *performance) change(ctx context.Context) (any, error) {
	if err := p.ready(); err != nil {
		return nil, err
	}
	if p.route.Changes() {
		defer p.turns.take(p.route.Urgency)()
		if err := ctx.Err(); err != nil {
			err = fault.Wrapf(fault.Timeout, err, "other changes took too long, or the one who asked does not wait any more; nothing was done: send it again")
			p.unusable(context.WithoutCancel(ctx), err)
			return nil, err
		}
		if err := p.stillMay(ctx); err != nil {
			return nil, err
		}
		doing := *p.Caller
		doing.goesOn = p.goOn
		p.Caller = &doing
	}
	p.stored = p.askedFor(ctx)
	before, out, err := p.unlessStale(ctx)
	if p.run != nil && p.run.Elsewhere(ctx) {
		return nil, cmp.Or(err, errElsewhere)
	}
	after := p.subject(ctx)
	if after == nil && before == nil && err == nil {
		after = shown(out) // it is new
	}
	if auditErr := p.write(ctx, p.changed(before, after, err)); auditErr != nil {
		return nil, fault.Wrapf(fault.Internal, auditErr, "it was done, but could not be recorded in the audit log; look at its state before you repeat it")
	}
	p.keepHead(ctx)
	return out, err
}

// errElsewhere is the error of a request that had nothing to do, as another node does the same one.
// What that one answers replaces it.
var errElsewhere error = fault.Errorf(fault.AnswerPending, "another node does this request: wait, and send it again with the same key")

// looks is how often what an operation is about is looked at again because another node of the
// fleet has made a change.
const looks = 20

// unlessStale performs the operation unless its caller has seen another state than
// the present one (RFC 9110 section 13.1.1, If-Match). The state is that of the moment at which
// the fleet's log takes the change: if another node's comes first, it is looked at again.
func (p *performance) unlessStale(ctx context.Context) (before, out any, err error) {
	for range looks {
		var look *appliance.Look
		if p.Revision != "" {
			look = p.Domain.Look(ctx)
		}
		before = p.subject(ctx)
		if err := p.stale(before); err != nil {
			return before, nil, err
		}
		if look == nil {
			out, err = p.route.run(p.marked(ctx), p.Caller, p.in)
			return before, out, err
		}
		out, err = p.route.run(appliance.Looked(p.marked(ctx), look), p.Caller, p.in)
		if !look.Refused() { // an operation that was refused may find done what another node did, and end well
			if stale := p.overtaken(ctx, look); stale != nil {
				return before, nil, stale
			}
			return before, out, err
		}
		if usedUp(reflect.ValueOf(p.in)) {
			return before, nil, fault.Errorf(fault.Changed, "another node of the fleet has made a change at the same time, and nothing was done; send it again")
		}
	}
	return before, nil, fault.Errorf(fault.Changed, "other nodes of the fleet change something all the time, and whether this has changed since you looked at it cannot be told; try again")
}

// overtaken says that another node has changed what the operation is about after the look, so that
// the operation had nothing to do, or could not do it.
func (p *performance) overtaken(ctx context.Context, look *appliance.Look) error {
	if !look.Unused() || !p.Domain.Look(ctx).Since(look) {
		return nil
	}
	return p.stale(p.subject(ctx))
}

func (p *performance) stale(now any) error {
	if p.Revision != "" && !matches(p.Revision, now) {
		return fault.Errorf(fault.Stale, "it has changed since you looked at it; look at it again, then decide")
	}
	return nil
}

// subject is what the operation is about, as it is now; nil if it is not there, or the operation
// changes nothing.
func (p *performance) subject(ctx context.Context) any {
	if p.route.subject == nil {
		return nil
	}
	return p.route.subject(ctx, p.Caller, p.in)
}

// PresenceTime is how long a proof of presence is good for dangerous operations.
const PresenceTime = 5 * time.Minute

// may says why the caller may not perform the operation; nil if they may.
func (c *Caller) may(r *Route) error {
	if err := c.admitted(r); err != nil {
		return err
	}
	if r.Guards().Presence && c.Who.Session != "" && c.Now().Sub(c.Who.ProvenAt) > PresenceTime {
		return fault.Errorf(fault.Presence, "prove again that it is you: this needs a proof of the last %d minutes", int(PresenceTime.Minutes()))
	}
	return nil
}

// goOn says why an operation of which a part is done must stop.
func (p *performance) goOn(ctx context.Context) error {
	if err := p.ready(); err != nil {
		return err
	}
	return p.still(ctx, "nothing more was done")
}

// stillMay says why the caller may not perform the operation any more; nil if they may.
// The request's body may have come long after its headers, and the operation's turn long
// after that: a session that was ended, a token that was revoked or a role that was taken
// meanwhile counts. The proof of presence was due when the request came.
func (p *performance) stillMay(ctx context.Context) error {
	return p.still(ctx, "nothing was done")
}

// still is stillMay; done says how much was done.
func (p *performance) still(ctx context.Context, done string) error {
	who, err := p.Still(ctx, p.Who)
	switch {
	case errors.Is(err, identity.ErrProof):
		err = fault.Errorf(fault.Unauthenticated, "your session has ended, or the API token was revoked, while the request was under way; %s: sign in again, or use another token", done)
	case err != nil:
		err = fault.Wrapf(fault.Internal, err, "whether you may still do this could not be found out; %s", done)
	default:
		now := *p.Caller
		now.Who = who
		if err = now.admitted(p.route); err == nil {
			err = (&performance{Caller: &now, route: p.route, path: p.path, in: p.in}).inScope(ctx)
		}
	}
	if err != nil {
		p.refused(ctx, err)
	}
	return err
}

// admitted says why the caller may never perform the operation, however present they are.
func (c *Caller) admitted(r *Route) error {
	if !c.Who.Role.May(r.Capability) {
		return fault.Errorf(fault.Forbidden, "the role %s may not do this: it needs %s; ask an administrator for another role", c.Who.Role, needs(r.Capability))
	}
	if c.Who.Unverified && r.Mutates() && !r.WhileLocked {
		return fault.Errorf(fault.Locked, "the appliance is locked, and nobody can tell whether your user is valid: until it is unlocked you may look, give the PIN and block, and nothing else")
	}
	person := c.Who.UserID != "" || c.Who.Token != ""
	if person && r.Mutates() && !r.WhileLocked && !r.WhileHeld {
		if held := c.Domain.Held(); appliance.IsHeld(held) {
			return fault.Errorf(fault.Locked, "the state is held (%s), and your user may be that of an earlier one: until it is accepted you may look, block and accept it (holdfast state accept), and nothing else", fault.CodeOf(held))
		}
	}
	return nil
}

// needs names the least role that has a capability.
func needs(capability identity.Capability) string {
	for _, r := range identity.Roles {
		if r.May(capability) {
			return string(r)
		}
	}
	return "a role that there is not"
}

// message is what a caller may be told of an error that is not the answer's own.
func (p *Performer) message(ctx context.Context, err error) string {
	return fault.Answer(ctx, p.Log, "admin", err).Message
}

// Pending is the error of an operation that waits for another person's approval.
type Pending struct{ Request *approval.Request }

func (p *Pending) Error() string {
	return "it waits for the approval of another person, until " + p.Request.ExpiresAt.Format(time.RFC3339) + ": request " + p.Request.ID
}
