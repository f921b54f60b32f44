package web

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// ApprovalStore keeps requests for approval; [*sqlite.DB] is one.
type ApprovalStore = approval.Store

// Approval is a request for approval with what it asks for.
type Approval struct {
	*approval.Request
	// Body is the request's body; left out if it has none.
	Body json.RawMessage `json:"body,omitempty"`
	// Result is what the operation gave. One that shows a secret is done by the person
	// who asked, and shown to nobody else.
	Result json.RawMessage `json:"result,omitempty"`
}

func (a Approval) withoutSecret() any { return a.Request }

type approverKey struct{}

// approverOf names who approved the request; empty if nobody did.
func approverOf(ctx context.Context) string {
	name, _ := ctx.Value(approverKey{}).(string)
	return name
}

func approvalRoutes() []Route {
	return []Route{
		{Method: http.MethodGet, Path: "/approvals", ID: "listApprovals", Capability: identity.See, Summary: "Operations that wait for a second person, and those decided",
			handler: lists(func(c *call) ([]Approval, error) {
				list, err := c.api.Approvals.Approvals(c.ctx(), 200)
				shown := make([]Approval, len(list))
				for i, r := range list {
					shown[i] = c.api.shown(r)
				}
				return shown, err
			})},
		{Method: http.MethodGet, Path: "/approvals/{approval}", ID: "showApproval", Capability: identity.See, Summary: "An operation that waits for a second person",
			handler: gives(func(c *call) (Approval, error) {
				r, err := c.api.Approvals.Approval(c.ctx(), c.param("approval"))
				if err != nil {
					return Approval{}, err
				}
				return c.api.shown(r), nil
			})},
		{Method: http.MethodPost, Path: "/approvals/{approval}/approve", ID: "approve", Capability: identity.ManageKeys, Dangerous: true, Summary: "Approve an operation that another person asked for; it is done, or waits for them if it shows a secret",
			handler: gives(approve)},
		{Method: http.MethodPost, Path: "/approvals/{approval}/perform", ID: "performApproved", Capability: identity.ManageKeys, Dangerous: true, Summary: "Do an operation that one has asked for and that was approved; it shows its secret this once",
			handler: gives(performApproved)},
		{Method: http.MethodPost, Path: "/approvals/{approval}/reject", ID: "reject", Capability: identity.ManageKeys, Summary: "Refuse an operation that waits, or take one's own back",
			handler: gives(func(c *call) (Approval, error) {
				r, err := c.waiting(approval.Pending, approval.Approved)
				if err != nil {
					return Approval{}, err
				}
				return c.api.decide(c, r, approval.Rejected)
			})},
	}
}

func (a *API) shown(r *approval.Request) Approval {
	r.State = r.StateAt(a.Now())
	return Approval{Request: r, Body: r.Body}
}

// needsApproval says whether the operation is one of those that need a second
// person. Once any does, changing which ones do needs one, too. Root on the
// machine itself needs nobody.
func (a *API) needsApproval(c *call) (bool, error) {
	if !c.route.Approvable || approverOf(c.ctx()) != "" || c.who.UserID == "" && c.who.Token == "" {
		return false, nil
	}
	chosen, err := approval.Chosen(c.ctx(), a.Settings)
	if err != nil {
		return false, err
	}
	return chosen.Every || slices.Contains(chosen.Operations, c.route.ID) || c.route.ID == "setSettings" && chosen.On(), nil
}

// file puts an operation aside until somebody else approves it.
func (a *API) file(c *call, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	if err := a.Audit.Ready(); err != nil {
		return nil, err
	}
	if err := a.fileable(c); err != nil {
		if auditErr := a.record(c, nil, nil, err); auditErr != nil {
			return nil, auditErr
		}
		return nil, err
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails (crypto/rand)
	now := a.Now().UTC()
	r := &approval.Request{ID: hex.EncodeToString(id), Operation: c.route.ID, Method: c.Method, Path: c.URL.EscapedPath(), Body: bytes.Clone(c.body),
		UserID: c.who.UserID, Token: c.who.Token, RequestedBy: c.who.Name, CreatedAt: now, ExpiresAt: now.Add(approval.Lifetime), State: approval.Pending}
	err = a.Approvals.CreateApproval(c.ctx(), r)
	rec := c.record("", err)
	rec.Operation, rec.After = "ask for approval of "+c.route.Operation(), encoded(a.shown(r))
	if auditErr := a.write(c.ctx(), rec); auditErr != nil {
		return nil, auditErr
	}
	return a.shown(r), err
}

// fileable says why an operation could not be done if somebody approved it: nobody
// is asked to approve what cannot be done.
func (a *API) fileable(c *call) error {
	if err := c.stale(c.subject()); err != nil {
		return err
	}
	if c.route.check == nil {
		return fmt.Errorf("the operation %s can be filed for approval, and has no check", c.route.ID)
	}
	return c.route.check(c)
}

// waiting gives the request for approval that the path names, if it is in one of
// the states.
func (c *call) waiting(states ...approval.State) (*approval.Request, error) {
	r, err := c.api.Approvals.Approval(c.ctx(), c.param("approval"))
	if err != nil {
		return nil, err
	}
	if r.State = r.StateAt(c.api.Now()); !slices.Contains(states, r.State) {
		return nil, fault.Errorf(fault.Conflict, "the request for approval is %s; nobody can decide it any more", r.State)
	}
	return r, nil
}

// decide puts a request into another state in the caller's name.
func (a *API) decide(c *call, r *approval.Request, to approval.State) (Approval, error) {
	r.DecidedBy, r.DecidedByID, r.DecidedAt = c.who.Name, c.who.UserID, a.Now().UTC()
	return a.turn(c, r, to, "")
}

// turn puts a request into another state.
func (a *API) turn(c *call, r *approval.Request, to approval.State, outcome string) (Approval, error) {
	was := *r
	r.State, r.Outcome = to, outcome
	if err := a.Approvals.DecideApproval(c.ctx(), r, &was); err != nil {
		return Approval{}, err
	}
	return a.shown(r), nil
}

// approve has the operation done in the name of the one who asked for it, as far
// as that one still may. What shows a secret waits for them: nobody else sees it.
func approve(c *call) (Approval, error) {
	r, err := c.waiting(approval.Pending)
	if err != nil {
		return Approval{}, err
	}
	asker, err := c.api.asker(c, r)
	if err != nil {
		return Approval{}, err
	}
	route, err := c.mayApprove(r, asker)
	if err != nil {
		return Approval{}, err
	}
	if route.ShowsSecret() {
		return c.api.decide(c, r, approval.Approved)
	}
	// Decided first, so that it is done once.
	if _, err := c.api.decide(c, r, approval.Done); err != nil {
		return Approval{}, err
	}
	return c.api.do(c, r, asker)
}

// performApproved has an approved operation done by the one who asked for it.
func performApproved(c *call) (Approval, error) {
	r, err := c.waiting(approval.Approved)
	if err != nil {
		return Approval{}, err
	}
	if c.who.UserID != r.UserID || c.who.Token != r.Token {
		return Approval{}, fault.Errorf(fault.Forbidden, "%s asked for this: nobody else sees its secret", r.RequestedBy)
	}
	if err := c.stillApproved(r); err != nil {
		return Approval{}, err
	}
	if _, err := c.api.turn(c, r, approval.Done, ""); err != nil {
		return Approval{}, err
	}
	return c.api.do(c, r, c.who)
}

// stillApproved says why the one who approved the request could not do so now.
func (c *call) stillApproved(r *approval.Request) error {
	approver, err := c.api.Identity.Principal(c.ctx(), r.DecidedByID, "")
	if fault.CodeOf(err) == fault.NotFound || err == nil && !approver.Role.May(c.api.capability(r.Operation)) {
		return fault.Errorf(fault.Conflict, "%s, who approved this, may not any more: take it back, and ask again", r.DecidedBy)
	}
	if err != nil {
		return err
	}
	return c.api.Identity.MayApprove(c.ctx(), r.DecidedByID, c.who)
}

// capability is what an operation needs of a role.
func (a *API) capability(operation string) identity.Capability {
	for _, r := range a.routes {
		if r.ID == operation {
			return r.Capability
		}
	}
	return "" // no role has it
}

// do does what a request asks for in the name of the one who asked.
func (a *API) do(c *call, r *approval.Request, asker identity.Principal) (Approval, error) {
	asker.ApproverID = r.DecidedByID
	ctx := context.WithValue(identity.WithPrincipal(context.WithoutCancel(c.ctx()), asker), approverKey{}, r.DecidedBy)
	req, err := http.NewRequestWithContext(ctx, r.Method, r.Path, bytes.NewReader(r.Body))
	if err != nil {
		return Approval{}, err
	}
	req.RemoteAddr = c.RemoteAddr
	var done answer
	a.ServeHTTP(&done, req)
	if done.status == http.StatusOK {
		shown := a.shown(r)
		shown.Result = done.body.Bytes()
		return shown, nil
	}
	f, err := readProblem(&done.body)
	if err != nil {
		return Approval{}, err
	}
	return a.turn(c, r, approval.Failed, f.Message)
}

// mayApprove says why the caller may not approve the request; else it gives what
// is asked for.
func (c *call) mayApprove(r *approval.Request, asker identity.Principal) (*Route, error) {
	if c.who.Token != "" || c.who.UserID == "" {
		return nil, fault.Errorf(fault.Forbidden, "a person approves, in the console; %s is not a user", c.who.Name)
	}
	if err := c.api.Identity.MayApprove(c.ctx(), c.who.UserID, asker); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(c.api.routes, func(route *Route) bool { return route.ID == r.Operation })
	if i < 0 || !c.api.routes[i].Approvable {
		return nil, fault.Errorf(fault.Conflict, "this release has no operation %s", r.Operation)
	}
	route := c.api.routes[i]
	if !c.who.Role.May(route.Capability) {
		return nil, fault.Errorf(fault.Forbidden, "only a role that may do this itself may approve it: it needs %s", needs(route.Capability))
	}
	return route, nil
}

// asker is who asked, with the role of now.
func (a *API) asker(c *call, r *approval.Request) (identity.Principal, error) {
	p, err := a.Identity.Principal(c.ctx(), r.UserID, r.Token)
	if fault.CodeOf(err) == fault.NotFound {
		return p, fault.Errorf(fault.Conflict, "%s, who asked for this, may not do it any more; reject it", r.RequestedBy)
	}
	return p, err
}

// answer takes what a handler writes, in memory.
type answer struct {
	status int
	header http.Header
	body   bytes.Buffer
}

func (w *answer) Header() http.Header {
	if w.header == nil {
		w.header = http.Header{}
	}
	return w.header
}

func (w *answer) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *answer) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}
