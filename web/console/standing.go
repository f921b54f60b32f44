package console

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/go-chi/chi/v5"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

// standingWords are the words for each state, the same on every page; docs/console.md has them.
var standingWords = map[appliance.StandingState]ui.Badge{
	appliance.StandingServing:           {Kind: ui.OK, Text: "Serving"},
	appliance.StandingDegraded:          {Kind: ui.Warn, Text: "Serving, degraded"},
	appliance.StandingDrained:           {Kind: ui.Warn, Text: "Serving, drained"},
	appliance.StandingFading:            {Kind: ui.Warn, Text: "Serving, stops soon"},
	appliance.StandingStarting:          {Kind: ui.Info, Text: "Starting"},
	appliance.StandingLocked:            {Kind: ui.Bad, Text: "Locked"},
	appliance.StandingHeld:              {Kind: ui.Bad, Text: "Held"},
	appliance.StandingStale:             {Kind: ui.Bad, Text: "Not up to date"},
	appliance.StandingUnrecorded:        {Kind: ui.Bad, Text: "Audit log takes no records"},
	appliance.StandingOut:               {Kind: ui.Bad, Text: "Out of service"},
	appliance.StandingBlocked:           {Kind: ui.Bad, Text: "Blocked"},
	appliance.StandingNoCredential:      {Kind: ui.Warn, Text: "No credential"},
	appliance.StandingInactive:          {Kind: ui.Off, Text: "Inactive"},
	appliance.StandingDisabled:          {Kind: ui.Off, Text: "Disabled"},
	appliance.StandingPendingDeletion:   {Kind: ui.Warn, Text: "Pending deletion"},
	appliance.StandingDeletionSuspended: {Kind: ui.Warn, Text: "Deletion suspended"},
	appliance.StandingHSMAway:           {Kind: ui.Bad, Text: "HSM away"},
}

// standingBadge shows a standing. A key that serves is enabled, and a credential active, as KMS
// and IAM call it. Of a block it says what is blocked.
func standingBadge(s appliance.Standing) ui.Badge {
	b := standingWords[s.State]
	switch {
	case s.State == appliance.StandingServing && s.Decides == appliance.DecidesKey:
		b.Text = "Enabled"
	case s.State == appliance.StandingServing && s.Decides == appliance.DecidesCredential:
		b.Text = "Active"
	case s.State == appliance.StandingBlocked && s.Decides == appliance.DecidesEverything:
		b.Text = "Blocked: everything"
	case s.State == appliance.StandingBlocked && s.Decides == appliance.DecidesKeyStore:
		b.Text = "Blocked: key store"
	case s.State == appliance.StandingBlocked && s.Decides == appliance.DecidesKey:
		b.Text = "Blocked: key"
	}
	return b
}

// standingText is what the badge of an item of a list says that stands so; of a block it says not
// what is blocked, since each row of it is found.
func standingText[Item any](state string) string {
	st := appliance.Standing{State: appliance.StandingState(state)}
	switch any(*new(Item)).(type) {
	case *appliance.ExternalKey:
		st.Decides = appliance.DecidesKey
	case *appliance.Credential:
		st.Decides = appliance.DecidesCredential
	case appliance.NodeStatus:
		return nodeBadges[appliance.NodeStanding(state)].Text
	}
	if st.State == appliance.StandingBlocked {
		return standingWords[st.State].Text
	}
	return standingBadge(st).Text
}

// headerStanding is what the header of each page says, and what tells it to change.
func (p *page) headerStanding() ui.Standing {
	s := p.c.Performer.Standing()
	return ui.Standing{Badge: standingBadge(s), Says: s.Says, Digest: p.digest, URL: "/standing?page=" + url.QueryEscape(p.here()),
		Node: p.c.Performer.Node(), Seconds: int(p.who.EndsAt.Sub(p.now).Seconds())}
}

// askStanding answers an open page with the header as it is now, and with when the session ends if
// nobody uses it. A post uses the session, a question does not. One that has ended gets 401.
func (c *console) askStanding(w http.ResponseWriter, r *http.Request) {
	r.Header.Set("Holdfast-Refresh", "1")
	if r.Method == http.MethodPost {
		r.Header.Del("Holdfast-Refresh")
	}
	who, err := c.session(r)
	if err != nil {
		status := http.StatusServiceUnavailable
		if errors.Is(err, identity.ErrProof) {
			status = http.StatusUnauthorized
		}
		http.Error(w, "not signed in", status)
		return
	}
	asked, err := url.Parse(local(r.URL.Query().Get("page")))
	if err != nil {
		asked = &url.URL{Path: "/"}
	}
	of := r.Clone(r.Context())
	of.URL = asked
	p := &page{Request: of, c: c, who: who, now: c.Now()}
	p.digest = p.look()
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if err := ui.ShowStanding(p.headerStanding()).Render(r.Context(), w); err != nil {
		c.Log.Debug("a page was not read to its end", "path", r.URL.Path, "error", err)
	}
}

// shows gives what a page shows besides the standings of the appliance and of its key stores, as
// far as another person may change it while the page is open.
type shows func(p *page) (any, error)

// listing is a list of the page; of tells the lists of a page apart ([listOf]).
func listing[In, Item any](of string, o *operation.Operation[In, operation.List[Item]]) shows {
	return func(p *page) (any, error) {
		if !p.may(o.Capability) {
			return nil, nil
		}
		list, err := listOf(p, of, o)
		seen := []any{list.Total}
		for _, item := range list.Items {
			seen = append(seen, mark(item))
		}
		return seen, err
	}
}

// thing is a thing of the page.
func thing[In, Out any](o *operation.Operation[In, Out], of func(p *page) In) shows {
	return func(p *page) (any, error) {
		if !p.may(o.Capability) {
			return nil, nil
		}
		v, err := read(p, o, of(p))
		if err != nil {
			return nil, err
		}
		return mark(v), nil
	}
}

// judged is the policy by which the machine is judged, or why there is none.
func judged(p *page) (any, error) {
	policy, err := read(p, operation.ShowAppraisalPolicy, operation.Nothing{})
	if err != nil {
		return fault.CodeOf(err), nil
	}
	return mark(policy), nil
}

// admitted is who can act and what decides, as far as the page of the state shows it.
func admitted(p *page) (any, error) {
	a, err := admission(p)
	if a == nil || err != nil {
		return nil, err
	}
	return operation.Revision(a), nil
}

// damage is what does not match in the stored state, and what it waits for.
func damage(p *page) (any, error) {
	status, err := read(p, operation.ShowStatus, operation.Nothing{})
	if err != nil || status.State == nil {
		return nil, err
	}
	s := status.State
	return []any{s.Damaged, s.HeldCode, s.NotAnchored, p.c.Performer.FirstAcceptance() != nil}, nil
}

// all is all of them.
func all(some ...shows) shows {
	return func(p *page) (any, error) {
		var seen []any
		for _, one := range some {
			v, err := one(p)
			if err != nil {
				return nil, err
			}
			seen = append(seen, v)
		}
		return seen, nil
	}
}

// mark names the state of a thing, and how it stands. What a revision leaves out, since it changes
// without the thing, is here if pages show it.
func mark(v any) any {
	switch v := v.(type) {
	case *appliance.KeyStoreDetail:
		seen := []any{operation.Revision(v), v.Keys}
		for _, c := range v.Credentials {
			seen = append(seen, mark(*c))
		}
		return seen
	case *appliance.StoredKey:
		seen := []any{mark(&v.ExternalKey), v.DeletionWaits, len(v.Grants)}
		for _, version := range v.Versions {
			seen = append(seen, operation.Revision(version))
		}
		for _, g := range firstGrants(v.Grants) {
			seen = append(seen, operation.Revision(g))
		}
		return seen
	case *appliance.ExternalKey:
		return []any{operation.Revision(v), operation.MarkOf(v.Standing)}
	case appliance.Credential:
		return []any{operation.Revision(v), operation.MarkOf(v.Standing)}
	case appliance.FleetStatus:
		var seen []any
		for i := range v.Nodes {
			seen = append(seen, operation.Revision(v.Nodes[i].Node), v.Nodes[i].Serves)
		}
		return seen
	}
	return operation.Revision(v)
}

// look gives the digest of what the page shows, as it is now.
func (p *page) look() string {
	here, err := url.Parse(p.here())
	if err != nil {
		return p.c.Performer.Digest()
	}
	for _, l := range pages {
		params, ok := match(l.path, here.Path)
		if !ok || l.shows == nil {
			continue
		}
		ctx := chi.NewRouteContext()
		for name, value := range params {
			ctx.URLParams.Add(name, value)
		}
		q := *p
		q.Request = p.Request.Clone(context.WithValue(p.Context(), chi.RouteCtxKey, ctx))
		q.URL = here
		what, err := l.shows(&q)
		if err != nil {
			return p.c.Performer.Digest(fault.CodeOf(err))
		}
		return p.c.Performer.Digest(what)
	}
	return p.c.Performer.Digest()
}
