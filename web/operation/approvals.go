package operation

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/approval"
	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// ApprovalStore keeps requests for approval; [*sqlite.DB] is one.
type ApprovalStore = approval.Store

// ApprovalName names a request for approval by the ID.
type ApprovalName struct {
	Approval string `path:"approval" json:"-" about:"The ID of the request for approval."`
}

func (n ApprovalName) request() string { return n.Approval }

// ApprovalDecision decides about a request for approval.
type ApprovalDecision struct {
	ApprovalName
	Reason string `json:"reason" jsonschema:"Why, in 1 to 256 characters: the one who asked and the audit log have it." example:"checked with the team that owns the key" shortest:"1" longest:"256"`
}

// ApprovedPerformance asks for an approved operation to be done by the one who asked for it.
type ApprovedPerformance struct {
	ApprovalName
	// Secret is the one that the operation takes, or its file, as it was when it was asked for: no
	// request stores it.
	Secret Secret `json:"secret,omitempty" upTo:"8388608" jsonschema:"The secret or the file that the operation takes, once more and in Base64: a request for approval stores none."`
}

// ApprovalDetail is a request for approval with what it asks for.
type ApprovalDetail struct {
	*approval.Request
	// Body is the request's body; left out if it has none.
	Body json.RawMessage `json:"body,omitempty" jsonschema:"The body of the request that waits for approval; absent if it has none."`
	// TakesSecret says that the one who asked gives the operation's secret, or its file, again when
	// they have it done.
	TakesSecret bool `json:"takes_secret,omitempty" jsonschema:"Whether the one who asked gives the operation's secret, or its file, again to have it done."`
	// Result is the answer of the operation. One that shows a secret is performed by
	// the person who asked, and shown to nobody else.
	Result json.RawMessage `json:"result,omitempty" any:"true" jsonschema:"The answer of the operation, once it was performed by this request. One that shows a secret is performed by the person who asked for it."`

	done any // a Done of the operation's type; nil if it was not performed now
}

func (a ApprovalDetail) withoutSecret() any { return a.Request }
func (a ApprovalDetail) revised() any       { return a.Request }

// Answer gives what the operation gave, of its type, if it was performed now and in
// this process; otherwise nil.
func (a ApprovalDetail) Answer() any {
	if d, ok := a.done.(interface{ out() any }); ok {
		return d.out()
	}
	return nil
}

// MarshalJSON writes it with the operation's answer.
func (a ApprovalDetail) MarshalJSON() (text []byte, err error) {
	type plain ApprovalDetail
	if a.done != nil {
		if a.Result, err = json.Marshal(a.done); err != nil {
			return nil, err
		}
	}
	return json.Marshal(plain(a))
}

func approvalSubject(ctx context.Context, c *Caller, in ApprovalName) any {
	r, err := c.Approvals.Approval(ctx, in.Approval)
	if err == nil {
		r.State = r.StateAt(c.Now()) // as it is shown
	}
	return found(r, err)
}

// ApprovalPage asks for a page of the requests for approval.
type ApprovalPage struct {
	Paging
	State     approval.State `query:"state" enum:"pending,approved,done,failed,rejected,expired,invalid" about:"only requests in this state" json:"-"`
	AskedBy   string         `query:"asked_by" about:"only requests of people or tokens whose name has this text in it" json:"-"`
	Operation string         `query:"operation" about:"only requests for this operation, by its ID" json:"-"`
}

// waitingFirst orders what waits behind all else, and each by the time: the list is read from
// its end.
func waitingFirst(a ApprovalDetail) string {
	if a.State == approval.Pending || a.State == approval.Approved {
		return "1" + timeKey(a.CreatedAt)
	}
	return "0" + timeKey(a.CreatedAt)
}

func decisionSubject(ctx context.Context, c *Caller, in ApprovalDecision) any {
	return approvalSubject(ctx, c, in.ApprovalName)
}

// The operations on requests for approval.
var (
	ListApprovals = defineList(Listing[ApprovalPage, ApprovalDetail]{
		Route: Route{ID: "listApprovals", Method: http.MethodGet, Path: "/approvals", Capability: identity.See, Narrows: true,
			Words: "List approvals", Summary: "Operations that wait for a second person, and those decided"},
		ID: func(a ApprovalDetail) string { return a.ID },
		By: []Order[ApprovalDetail]{
			{"waiting", waitingFirst},
			{"created", func(a ApprovalDetail) string { return timeKey(a.CreatedAt) }},
		},
		Default: "-waiting",
		All: func(ctx context.Context, c *Caller, in ApprovalPage) ([]ApprovalDetail, error) {
			list, err := c.Approvals.Approvals(ctx, approval.MaxListed)
			var shown []ApprovalDetail
			for _, r := range list {
				if c.Who.Scope.AllKeyStores() || c.shows(c.keyStoreOf(ctx, r)) {
					shown = append(shown, c.shownApproval(r))
				}
			}
			return keep(shown, err, func(a ApprovalDetail) bool {
				return is(a.State, in.State) && contains(a.RequestedBy, in.AskedBy) && is(a.Operation, in.Operation)
			})
		},
	})
	ShowApproval = define(Operation[ApprovalName, ApprovalDetail]{
		Route: Route{ID: "showApproval", Method: http.MethodGet, Path: "/approvals/{approval}", Capability: identity.See,
			Words: "Show approval", Summary: "An operation that waits for a second person"},
		KeyStore: approvalKeyStore,
		Run: func(ctx context.Context, c *Caller, in ApprovalName) (ApprovalDetail, error) {
			r, err := c.Approvals.Approval(ctx, in.Approval)
			if err != nil {
				return ApprovalDetail{}, err
			}
			return c.shownApproval(r), nil
		},
	})
	Approve = define(Operation[ApprovalDecision, ApprovalDetail]{
		Route: Route{ID: "approve", Method: http.MethodPost, Path: "/approvals/{approval}/approve", Capability: identity.ManageKeys, Effects: Decides, Alone: secondPart, Urgency: Independent,
			Words: "Approve", Summary: "Approve an operation that another person asked for; it is done, or waits for them if it shows a secret"},
		Subject:   decisionSubject,
		KeyStore:  decisionKeyStore,
		Restricts: always[ApprovalDecision], // what is approved may restrict
		Run:       approve,
	})
	PerformApproved = define(Operation[ApprovedPerformance, ApprovalDetail]{
		Route: Route{ID: "performApproved", Method: http.MethodPost, Path: "/approvals/{approval}/perform", Capability: identity.ManageKeys, Effects: Decides, Alone: secondPart, Urgency: Independent,
			Words: "Perform approved operation", Summary: "Do an operation that one has asked for and that was approved; it shows its secret this once"},
		Subject: func(ctx context.Context, c *Caller, in ApprovedPerformance) any {
			return approvalSubject(ctx, c, in.ApprovalName)
		},
		KeyStore: func(ctx context.Context, c *Caller, in ApprovedPerformance) (string, error) {
			return approvalKeyStore(ctx, c, in.ApprovalName)
		},
		Restricts: always[ApprovedPerformance],
		Run:       performApproved,
	})
	Reject = define(Operation[ApprovalDecision, ApprovalDetail]{
		Route: Route{ID: "reject", Method: http.MethodPost, Path: "/approvals/{approval}/reject", Capability: identity.ManageKeys, Urgency: Urgent,
			Words: "Reject", Summary: "Refuse an operation that waits, or take one's own back"},
		Subject:  decisionSubject,
		KeyStore: decisionKeyStore,
		Run: func(ctx context.Context, c *Caller, in ApprovalDecision) (ApprovalDetail, error) {
			if err := appliance.CheckReason(in.Reason); err != nil {
				return ApprovalDetail{}, err
			}
			r, err := c.waiting(ctx, in.ApprovalName, approval.Pending, approval.Approved)
			if err != nil {
				return ApprovalDetail{}, err
			}
			return c.decide(ctx, r, approval.Rejected, in.Reason)
		},
	})
)

// WaitingApprovals is how many requests wait for approval. fault.Forbidden for who may not list them.
func (c *Caller) WaitingApprovals(ctx context.Context) (int, error) {
	if !c.Who.Role.May(ListApprovals.Capability) {
		return 0, fault.Errorf(fault.Forbidden, "the role %s may not list approvals", c.Who.Role)
	}
	all, err := c.Approvals.CountApprovals(ctx, c.Now())
	return all[approval.Pending], err
}

func (p *Performer) shownApproval(r *approval.Request) ApprovalDetail {
	r.State = r.StateAt(p.Now())
	return ApprovalDetail{Request: r, Body: r.Body, TakesSecret: len(r.Secret) > 0}
}

// NeedsApproval says whether the operation is one of those that need a second
// person. Root on the machine itself needs nobody. While the appliance is locked, or its state
// is held, nobody can approve and nothing serves: what can be done then, such as a block, is
// done by one person.
func (c *Caller) NeedsApproval(ctx context.Context, r *Route) (bool, error) {
	if !r.Guards().FourEyes || c.approvedBy != "" || c.Who.UserID == "" && c.Who.Token == "" {
		return false, nil
	}
	chosen, err := approval.Chosen(ctx, c.Settings)
	if r.WhileLocked && (fault.CodeOf(err) == fault.Locked || appliance.IsHeld(c.Domain.Held())) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return chosen.Every || slices.ContainsFunc(chosen.Operations, r.chosenWith) || r.Guards().WithAny && chosen.On(), nil
}

// chosenWith says whether the operation needs a second person once that one was chosen to.
func (r *Route) chosenWith(id string) bool {
	return r.ID == id || r.Many != nil && r.Many.chosenWith(id)
}

// file puts an operation aside until another person approves it. Its error is a
// [*Pending] if that was done.
func (p *performance) file(ctx context.Context) error {
	if err := p.ready(); err != nil {
		return err
	}
	plain, secret := p.route.apartFrom(p.in)
	body, err := p.fileable(ctx, plain)
	if err != nil {
		if auditErr := p.write(ctx, p.changed(nil, nil, err)); auditErr != nil {
			return auditErr
		}
		return err
	}
	chosen, err := approval.Chosen(ctx, p.Settings)
	if err != nil {
		return err
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id)                            // never fails (crypto/rand)
	now := p.Now().UTC().Truncate(time.Millisecond) // as it is stored
	r := &approval.Request{ID: hex.EncodeToString(id), Operation: p.route.ID, Method: p.route.Method, Path: Prefix + p.route.path(p.in), Body: body,
		UserID: p.Who.UserID, Token: p.Who.Token, RequestedBy: p.Who.Name, Reason: p.Reason, Address: host(p.Remote), CreatedAt: now, ExpiresAt: now.Add(chosen.Lifetime()), State: approval.Pending}
	if secret != nil {
		r.Secret = approval.Commit(secret)
	}
	err = p.Approvals.CreateApproval(p.marked(ctx), r)
	rec := p.record("", err)
	if err != nil {
		rec.Result = audit.Failed
	}
	p.describe(rec, p.subject(ctx))
	rec.Operation, rec.Action, rec.Approval, rec.After = askedApproval+p.route.Operation(), askedWords+rec.Action, r.ID, encoded(p.shownApproval(r))
	if auditErr := p.write(ctx, rec); auditErr != nil {
		return auditErr
	}
	if err != nil {
		return err
	}
	p.announce(ctx, r, p.objectOf(p.subject(ctx)))
	return &Pending{r}
}

// fileable says why an operation could not be performed if it was approved: nobody
// is asked to approve what cannot be done, or why is not said. It gives the body of the stored
// request, which is the input without its secret.
func (p *performance) fileable(ctx context.Context, plain any) ([]byte, error) {
	if p.route.Mutates() {
		if err := p.stale(p.subject(ctx)); err != nil {
			return nil, err
		}
		if p.route.check == nil {
			return nil, fmt.Errorf("the operation %s can be filed for approval, and has no check", p.route.ID)
		}
		if err := p.route.check(ctx, p.Caller, p.in); err != nil {
			return nil, err
		}
	}
	if appliance.CheckReason(p.Reason) != nil {
		return nil, fault.Errorf(fault.ReasonMissing, "another person must approve this: say why, for them, in 1 to 256 characters (header %s, or --why)", ReasonHeader)
	}
	stored, err := p.route.filed(ctx, p.Caller, p.in, plain)
	if err != nil {
		return nil, err
	}
	return p.route.encode(stored)
}

// ReasonHeader is the header of a request that says why, for the person who approves. Its value
// is text in UTF-8, in which percent signs escape bytes as in a URL.
const ReasonHeader = "Holdfast-Reason"

// host gives the address of host and port; empty for none.
func host(remote string) string {
	if h, _, err := net.SplitHostPort(remote); err == nil {
		return h
	}
	return remote
}

// stored reads the input that a request for approval has stored. A request that an
// earlier release filed has the method and the path of then.
func stored(r *approval.Request) (*Route, Request, error) {
	i := slices.IndexFunc(table, func(route *Route) bool { return route.ID == r.Operation })
	if i < 0 || !table[i].Guards().FourEyes {
		return nil, Request{}, fault.Errorf(fault.Conflict, "this release has no operation %s that can be approved: reject the request", r.Operation)
	}
	route := table[i]
	named, ok := route.named(strings.TrimPrefix(r.Path, Prefix))
	if !ok || r.Method != route.Method || !strings.HasPrefix(r.Path, Prefix) {
		return nil, Request{}, fault.Errorf(fault.Conflict, "an earlier release filed this as %s %s, which is not how this release performs %s: reject the request, and ask again", r.Method, r.Path, r.Operation)
	}
	path := func(name string) string { return named[name] }
	return route, Request{Path: path, Read: func() (any, error) {
		return route.Decode(Parts{Path: path, Body: strings.NewReader(string(r.Body))})
	}}, nil
}

// waiting gives the request for approval that is named, if it is in one of the
// states.
func (c *Caller) waiting(ctx context.Context, in ApprovalName, states ...approval.State) (*approval.Request, error) {
	r, err := c.Approvals.Approval(ctx, in.Approval)
	if err != nil {
		return nil, err
	}
	if r.State = r.StateAt(c.Now()); !slices.Contains(states, r.State) {
		return nil, fault.Errorf(fault.Conflict, "the request for approval is %s; nobody can decide it any more", r.State)
	}
	return r, nil
}

// decide puts a request into another state in the caller's name.
func (c *Caller) decide(ctx context.Context, r *approval.Request, to approval.State, reason string) (ApprovalDetail, error) {
	r.DecisionReason = reason
	r.DecidedBy, r.DecidedByID, r.DecidedAt = c.Who.Name, c.Who.UserID, c.Now().UTC()
	shown, err := c.turn(ctx, r, to, "")
	if err == nil {
		c.announce(ctx, r, c.aboutRequest(ctx, r))
	}
	return shown, err
}

// turn puts a request into another state.
func (p *Performer) turn(ctx context.Context, r *approval.Request, to approval.State, outcome string) (ApprovalDetail, error) {
	was := *r
	r.State, r.Outcome = to, outcome
	if err := p.Approvals.DecideApproval(ctx, r, &was); err != nil {
		return ApprovalDetail{}, err
	}
	return p.shownApproval(r), nil
}

// approve has the operation performed in the name of the one who asked for it, as
// far as that one still may. What shows a secret, takes one, or gives data out waits for them:
// nobody else sees or knows it.
func approve(ctx context.Context, c *Caller, in ApprovalDecision) (ApprovalDetail, error) {
	if err := appliance.CheckReason(in.Reason); err != nil {
		return ApprovalDetail{}, err
	}
	r, err := c.waiting(ctx, in.ApprovalName, approval.Pending)
	if err != nil {
		return ApprovalDetail{}, err
	}
	asker, err := c.asker(ctx, r)
	if err != nil {
		return ApprovalDetail{}, err
	}
	route, err := c.mayApprove(ctx, r, asker)
	if err != nil {
		return ApprovalDetail{}, err
	}
	if err := c.storedReady(r); err != nil {
		return ApprovalDetail{}, err
	}
	if route.ShowsSecret() || len(r.Secret) > 0 || !route.Mutates() {
		return c.decide(ctx, r, approval.Approved, in.Reason)
	}
	// Decided first, so that it is done once.
	if _, err := c.decide(ctx, r, approval.Done, in.Reason); err != nil {
		return ApprovalDetail{}, err
	}
	return c.performStored(ctx, r, asker, nil)
}

// performApproved has an approved operation performed by the one who asked for it.
func performApproved(ctx context.Context, c *Caller, in ApprovedPerformance) (ApprovalDetail, error) {
	r, route, err := c.approvedRequest(ctx, in.ApprovalName)
	switch {
	case err != nil:
		return ApprovalDetail{}, err
	case !route.Mutates():
		return ApprovalDetail{}, fault.Errorf(fault.Conflict, "it was approved: download it with %s %s?approval=%s", route.Method, Prefix+route.Path, r.ID)
	case len(r.Secret) == 0 && len(in.Secret) > 0:
		return ApprovalDetail{}, fault.Errorf(fault.Invalid, "\"secret\": this was asked for without one; leave it out")
	case len(r.Secret) > 0 && !r.Secret.To(in.Secret):
		return ApprovalDetail{}, fault.Errorf(fault.Invalid, "\"secret\": give the %s that this was asked for with; it is stored nowhere, and this is another one, or none", Plain(route.secretMember.name))
	}
	if err := c.storedReady(r); err != nil {
		return ApprovalDetail{}, err
	}
	if route.inSteps() { // it makes nothing twice, and stays approved until nothing is left
		return c.performStep(ctx, r, in.Secret)
	}
	if _, err := c.turn(ctx, r, approval.Done, ""); err != nil {
		return ApprovalDetail{}, err
	}
	return c.performStored(ctx, r, c.Who, in.Secret)
}

// approvedRequest gives a request that was approved and that the caller, who asked for it, may
// have done now.
func (c *Caller) approvedRequest(ctx context.Context, in ApprovalName) (*approval.Request, *Route, error) {
	r, err := c.waiting(ctx, in, approval.Approved)
	if err != nil {
		return nil, nil, err
	}
	if c.Who.UserID != r.UserID || c.Who.Token != r.Token {
		return nil, nil, fault.Errorf(fault.Forbidden, "%s asked for this: nobody else has it done", r.RequestedBy)
	}
	if err := c.stillApproved(ctx, r); err != nil {
		return nil, nil, err
	}
	route, _, err := stored(r)
	return r, route, err
}

// readApproved performs an operation that gives data out, once, for the request that was approved.
func (p *performance) readApproved(ctx context.Context, id string) (any, error) {
	r, route, err := p.approvedRequest(ctx, ApprovalName{Approval: id})
	if err == nil && route != p.route {
		err = fault.Errorf(fault.Invalid, "approval: the request %s was made for %s and not for %s", id, r.Operation, p.route.ID)
	}
	if err == nil {
		err = p.ready()
	}
	if err == nil {
		_, err = p.turn(ctx, r, approval.Done, "")
	}
	if err != nil {
		p.unusable(ctx, err)
		return nil, err
	}
	as := *p.Caller
	as.Who.ApproverID, as.approvedBy, as.approval = r.DecidedByID, r.DecidedBy, r.ID
	as.Reason, as.approvalReason = r.Reason, r.DecisionReason
	approved := *p
	approved.Caller = &as
	out, err := approved.read(ctx)
	if err != nil {
		told := fault.Answer(ctx, p.Log, "an approved operation failed", err, "operation", r.Operation, "request", r.ID)
		if _, turnErr := p.turn(context.WithoutCancel(ctx), r, approval.Failed, told.Message); turnErr != nil {
			p.Log.Error("the outcome of an approved operation could not be stored", "request", r.ID, "error", turnErr)
		}
	}
	return out, err
}

// stillApproved says why the one who approved the request could not do so now.
func (c *Caller) stillApproved(ctx context.Context, r *approval.Request) error {
	route, _, err := stored(r)
	if err != nil {
		return err
	}
	approver, err := c.Identity.Principal(ctx, r.DecidedByID, "")
	if fault.CodeOf(err) == fault.NotFound || err == nil && !approver.Role.May(route.Capability) {
		return fault.Errorf(fault.Conflict, "%s, who approved this, may not any more: take it back, and ask again", r.DecidedBy)
	}
	if err != nil {
		return err
	}
	return c.Identity.MayApprove(ctx, r.DecidedByID, c.Who)
}

// storedReady says why what a request asks for cannot be recorded; nil if it can. It is
// asked before the request is decided, which it is once.
func (c *Caller) storedReady(r *approval.Request) error {
	route, q, err := stored(r)
	if err != nil {
		return err
	}
	in, err := q.Read()
	if err != nil {
		return nil // such as of an earlier release: nothing is done, and the request says why
	}
	defer Wipe(in)
	return (&performance{Caller: c, route: route, path: q.Path, in: in}).ready()
}

// unfinished is an answer that says whether the operation is to be performed again to go on.
type unfinished interface{ Unfinished() bool }

// inSteps says whether the operation is performed again and again until it has nothing to do.
func (r *Route) inSteps() bool { return r.answer.Implements(reflect.TypeFor[unfinished]()) }

// performStep performs a part of what a request asks for. The request stays approved, also where
// the part fails, until nothing is left.
func (c *Caller) performStep(ctx context.Context, r *approval.Request, secret Secret) (ApprovalDetail, error) {
	bounded, cancel := uninterrupted(ctx)
	defer cancel()
	done, err := c.doStored(bounded, r, c.Who, secret)
	if err != nil {
		return ApprovalDetail{}, err
	}
	shown := c.shownApproval(r)
	if !Gave(done).(unfinished).Unfinished() {
		if shown, err = c.turn(ctx, r, approval.Done, ""); err != nil {
			return ApprovalDetail{}, err
		}
	}
	shown.done = done
	return shown, nil
}

// performStored performs what a request asks for in the name of the one who asked, with the
// secret that it takes.
func (c *Caller) performStored(ctx context.Context, r *approval.Request, asker identity.Principal, secret Secret) (ApprovalDetail, error) {
	bounded, cancel := uninterrupted(ctx)
	defer cancel()
	ctx = context.WithoutCancel(ctx)
	done, err := c.doStored(bounded, r, asker, secret)
	if err == nil {
		shown := c.shownApproval(r)
		shown.done = done
		return shown, nil
	}
	told := fault.Answer(ctx, c.Log, "an approved operation failed", err, "operation", r.Operation, "request", r.ID)
	if c.Decided != nil {
		c.Decided(approval.Failed)
	}
	return c.turn(ctx, r, approval.Failed, told.Message)
}

// uninterrupted gives a context that does not end when the caller goes away, but with its deadline.
func uninterrupted(ctx context.Context) (context.Context, context.CancelFunc) {
	until, bounded := ctx.Deadline()
	ctx = context.WithoutCancel(ctx)
	if !bounded {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, until)
}

// doStored gives what the operation gave.
func (c *Caller) doStored(ctx context.Context, r *approval.Request, asker identity.Principal, secret Secret) (any, error) {
	as := c.As(asker, c.Remote)
	as.Who.ApproverID, as.approvedBy, as.approval = r.DecidedByID, r.DecidedBy, r.ID
	as.Reason, as.approvalReason = r.Reason, r.DecisionReason
	route, q, err := stored(r)
	if err != nil {
		return nil, err
	}
	if read := q.Read; len(secret) > 0 {
		q.Read = func() (any, error) {
			in, err := read()
			if err == nil {
				in = route.with(in, secret)
			}
			return in, err
		}
	}
	return route.Perform(ctx, as, q)
}

// mayApprove says why the caller may not approve the request; else it gives what
// is asked for.
func (c *Caller) mayApprove(ctx context.Context, r *approval.Request, asker identity.Principal) (*Route, error) {
	if c.Who.Token != "" || c.Who.UserID == "" {
		return nil, fault.Errorf(fault.Forbidden, "a person approves, in the console; %s is not a user", c.Who.Name)
	}
	if err := c.Identity.MayApprove(ctx, c.Who.UserID, asker); err != nil {
		return nil, err
	}
	route, _, err := stored(r)
	if err != nil {
		return nil, err
	}
	if !c.Who.Role.May(route.Capability) {
		return nil, fault.Errorf(fault.Forbidden, "only a role that may do this itself may approve it: it needs %s", needs(route.Capability))
	}
	return route, nil
}

// asker is who asked, with the role of now.
func (c *Caller) asker(ctx context.Context, r *approval.Request) (identity.Principal, error) {
	p, err := c.Identity.Principal(ctx, r.UserID, r.Token)
	if fault.CodeOf(err) == fault.NotFound {
		return p, fault.Errorf(fault.Conflict, "%s, who asked for this, may not do it any more; reject it", r.RequestedBy)
	}
	return p, err
}
