package operation

import (
	"context"
	"net/http"

	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/notice"
)

// Notices tells people of requests for approval; [*notice.Queue] is it.
type Notices interface {
	// Add has a notice sent, and does not wait for that.
	Add(n notice.Notice)
	// Try sends a test notice in somebody's name now, also to the addresses given, and says what
	// came of it: nothing if there is no way by which notices go out.
	Try(ctx context.Context, by string, to []string) []notice.Outcome
}

// announce counts a request for approval that was made or decided, and has those told whom it is
// about: of a new one those who may approve it, of a decision the one who asked.
func (c *Caller) announce(ctx context.Context, r *approval.Request, about thing) {
	if c.Decided != nil {
		c.Decided(r.State)
	}
	if c.Notices == nil {
		return
	}
	n := notice.Notice{Request: notice.Request{ID: r.ID, Operation: r.Operation, Words: wordsOfID(r.Operation), Object: about.words, AskedBy: r.RequestedBy, Reason: r.Reason, ExpiresAt: r.ExpiresAt,
		DecidedBy: r.DecidedBy, DecisionReason: r.DecisionReason}}
	asked, p := *r, c.Performer // and not the caller, who has a reason and a key of this request
	switch r.State {
	case approval.Pending:
		n.Event, n.To = notice.Asked, func(ctx context.Context) ([]string, error) { return p.approvers(ctx, &asked) }
	case approval.Approved, approval.Done:
		n.Event, n.To = notice.Approved, func(ctx context.Context) ([]string, error) { return p.askerAddress(ctx, &asked) }
	case approval.Rejected:
		n.Event, n.To = notice.Rejected, func(ctx context.Context) ([]string, error) { return p.askerAddress(ctx, &asked) }
	default:
		return
	}
	c.Notices.Add(n)
}

// announceCode has a user told that a recovery code of theirs was used.
func (p *Performer) announceCode(who identity.Principal, remote string) {
	if p.Notices == nil {
		return
	}
	p.Notices.Add(notice.Notice{Event: notice.RecoveryCode, Recovery: notice.Recovery{User: who.Name, At: p.Now().UTC(), Address: host(remote)},
		To: func(ctx context.Context) ([]string, error) { return p.addressOf(ctx, who.UserID) }})
}

// approvers are the e-mail addresses of those who may approve a request.
func (p *Performer) approvers(ctx context.Context, r *approval.Request) ([]string, error) {
	route, _, err := stored(r)
	if err != nil {
		return nil, err
	}
	asker, err := p.Identity.Principal(ctx, r.UserID, r.Token)
	if fault.CodeOf(err) == fault.NotFound { // nobody can approve it any more
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	users, err := p.Identity.Approvers(ctx, asker, route.Capability)
	var to []string
	for _, u := range users {
		to = append(to, u.Email)
	}
	return to, err
}

// askerAddress is the e-mail address of the user who asked, unless they decided themselves.
func (p *Performer) askerAddress(ctx context.Context, r *approval.Request) ([]string, error) {
	if r.UserID == "" || r.UserID == r.DecidedByID {
		return nil, nil
	}
	return p.addressOf(ctx, r.UserID)
}

// addressOf is the e-mail address of a user; none if there is no such user any more.
func (p *Performer) addressOf(ctx context.Context, id string) ([]string, error) {
	u, err := p.Identity.User(ctx, id)
	if fault.CodeOf(err) == fault.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []string{u.Email}, nil
}

// SentNotice is what came of a test notice.
type SentNotice struct {
	Way   string `json:"way" jsonschema:"The way by which it was sent." enum:"email,webhook" example:"email"`
	To    string `json:"to,omitempty" jsonschema:"The e-mail address to which it was sent; absent for the webhook." example:"alice@example.com"`
	Taken bool   `json:"taken" jsonschema:"Whether the mail server, or the webhook, has taken it. Whether a mail server delivers it, only its receiver can tell."`
	Error string `json:"error,omitempty" jsonschema:"Why it was not taken; absent if it was."`
}

// TestedNotices is what came of all.
type TestedNotices struct {
	Notices []SentNotice `json:"notices" jsonschema:"What came of the test notice, for each way and address."`
}

// TestNotices sends a test notice by each way that is configured.
var (
	TestNotices = define(Operation[Nothing, TestedNotices]{
		Route: Route{ID: "testNotices", Method: http.MethodPost, Path: "/notices/test", Conflicts: true, Capability: identity.Administer, ReadOnly: true, Urgency: Independent,
			Words: "Send test notice", Summary: "Send a test notice by each way that the configuration has, to its addresses and to one's own"},
		Subject: apart[Nothing],
		Run: func(ctx context.Context, c *Caller, _ Nothing) (TestedNotices, error) {
			var to []string
			if u, err := c.Identity.User(ctx, c.Who.UserID); err == nil {
				to = append(to, u.Email)
			}
			var out []notice.Outcome
			if c.Notices != nil {
				out = c.Notices.Try(ctx, c.Who.Name, to)
			}
			if len(out) == 0 {
				return TestedNotices{}, fault.Errorf(fault.Conflict, "no notice was sent: the configuration has no [notify.webhook], and no [notify.smtp] with an address to send to (notify.to, or the e-mail address of your user)")
			}
			answer := TestedNotices{}
			for _, o := range out {
				s := SentNotice{Way: o.Way, To: o.To, Taken: o.Err == nil}
				if o.Err != nil {
					s.Error = bounded(o.Err.Error())
				}
				answer.Notices = append(answer.Notices, s)
			}
			return answer, nil
		},
	})
)
