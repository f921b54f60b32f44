package web

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
)

// audited does an operation that changes something, and has it recorded with
// what it is about as it was before and after. If nothing can be recorded,
// nothing is done.
func (a *API) audited(c *call) (any, error) {
	if err := a.Audit.Ready(); err != nil {
		return nil, err
	}
	if !c.route.urgent() {
		a.changes.Lock()
		defer a.changes.Unlock()
	}
	before := c.subject()
	result, err := a.unlessStale(c, before)
	after := c.subject()
	if after == nil && before == nil && err == nil {
		after = shown(result) // it is new
	}
	if auditErr := a.record(c, before, after, err); auditErr != nil {
		return nil, fault.Wrapf(fault.Internal, auditErr, "it was done, but could not be recorded in the audit log; look at its state before you repeat it")
	}
	return result, err
}

// urgent operations wait for no other one: block, restore, which may take long,
// and those that have another one done.
func (r *Route) urgent() bool {
	return r.ID == "block" || r.ID == "restore" || r.ID == "approve" || r.ID == "performApproved"
}

// unlessStale does the operation unless its caller has seen another state than
// the present one (RFC 9110 section 13.1.1, If-Match).
func (a *API) unlessStale(c *call, before any) (any, error) {
	if err := c.stale(before); err != nil {
		return nil, err
	}
	return c.route.run(c)
}

func (c *call) stale(now any) error {
	if c.revision != "" && c.revision != Revision(now) {
		return fault.Errorf(fault.Stale, "it has changed since you looked at it; read it again, then decide")
	}
	return nil
}

// refused records that somebody who is known may not do what they asked for.
func (a *API) refused(c *call, err error) {
	if auditErr := a.write(c.ctx(), c.record(audit.Denied, err)); auditErr != nil {
		a.Log.Error("a refusal could not be recorded", "path", c.URL.Path, "error", auditErr)
	}
}

// unusable records that a request to change something could not be read.
func (a *API) unusable(c *call, err error) {
	if !c.route.Mutates() {
		return
	}
	if auditErr := a.write(c.ctx(), c.record(audit.Failed, err)); auditErr != nil {
		a.Log.Error("a request that could not be read could not be recorded", "path", c.URL.Path, "error", auditErr)
	}
}

// record writes what became of the request.
func (a *API) record(c *call, before, after any, err error) error {
	rec := c.record(audit.Allowed, nil)
	rec.Before, rec.After = encoded(before), encoded(after)
	if err != nil {
		rec.Result, rec.Error, rec.After = audit.Failed, string(fault.CodeOf(err)), nil
	}
	return a.write(c.ctx(), rec)
}

func (c *call) record(result audit.Result, err error) *audit.Record {
	return &audit.Record{Kind: audit.KindAdmin, Operation: c.route.Operation(), Result: result, Error: string(fault.CodeOf(err)),
		Actor: c.who.Name, Detail: detailOf(c), Remote: c.RemoteAddr, KeyStore: c.keyStore(), Key: c.key()}
}

// detailOf says by which proof the actor came, and who else approved.
func detailOf(c *call) string {
	var parts []string
	switch {
	case c.who.Session != "":
		parts = append(parts, "session "+c.who.Session)
	case c.who.Token != "":
		parts = append(parts, "token "+c.who.Token)
	}
	if by := approverOf(c.ctx()); by != "" {
		parts = append(parts, "approved by "+by)
	}
	return strings.Join(parts, ", ")
}

// Operation is what the audit log calls it: the method and the route, such as
// "POST keystores/{keystore}/keys".
func (r *Route) Operation() string { return r.Method + " " + strings.TrimPrefix(r.Path, "/") }

func (a *API) write(ctx context.Context, rec *audit.Record) error {
	a.Log.Info("admin", "operation", rec.Operation, "actor", rec.Actor, "key_store", rec.KeyStore, "key", rec.Key, "result", string(rec.Result), "error", rec.Error)
	return a.Audit.Record(context.WithoutCancel(ctx), rec)
}

// Event records what happens to users outside of the API: that they sign in, or
// fail to. Where the log is not open yet, as while the appliance is locked from
// its start on, the program's log alone has it: nothing can be changed then.
func (a *API) Event(ctx context.Context, operation, actor, remote string, err error) error {
	rec := &audit.Record{Kind: audit.KindAdmin, Operation: operation, Result: audit.Allowed, Actor: actor, Remote: remote}
	if err != nil {
		rec.Result, rec.Error = audit.Denied, string(fault.CodeOf(err))
	}
	err = a.write(ctx, rec)
	if fault.CodeOf(err) == fault.Locked {
		return nil
	}
	return err
}

// subject is what the route names, as it is now; nil if there is none, or the
// route makes it.
func (c *call) subject() any {
	ctx, d := c.ctx(), c.api.Domain
	store, credential, grant := c.keyStore(), c.param("credential"), c.param("grant")
	switch {
	case c.key() != "":
		if k, err := d.ShowKey(ctx, store, c.key()); err == nil {
			return k
		}
	case credential != "":
		list, _ := d.Credentials(ctx, store)
		return one(list, func(x *appliance.Credential) bool { return x.AccessKeyID == credential })
	case grant != "":
		list, _ := d.Grants(ctx, store)
		return one(list, func(g *appliance.Grant) bool { return g.ID == grant })
	case strings.HasSuffix(c.route.Path, "/policy"):
		if cedar, err := d.Policy(ctx, store); err == nil {
			return Policy{cedar}
		}
	case store != "" && (c.route.Method == http.MethodDelete || c.route.Method == http.MethodPut):
		list, _ := d.KeyStores(ctx)
		return one(list, func(k *appliance.KeyStore) bool { return k.Name == store })
	case c.param("user") != "":
		if u, err := c.api.Identity.User(ctx, c.param("user")); err == nil {
			return u
		}
	case c.route.ID == "setSettings":
		if s, err := c.api.settings(ctx); err == nil {
			return s
		}
	case c.param("approval") != "":
		if p, err := c.api.Approvals.Approval(ctx, c.param("approval")); err == nil {
			return p
		}
	}
	return nil
}

// one gives the item that is meant, or nil.
func one[T any](list []*T, is func(*T) bool) any {
	if i := slices.IndexFunc(list, is); i >= 0 {
		return list[i]
	}
	return nil
}

// secret is an answer that shows something once.
type secret interface {
	// withoutSecret is what may be recorded of it.
	withoutSecret() any
}

// shown is a result without the secret that it may show this once.
func shown(result any) any {
	if s, ok := result.(secret); ok {
		return s.withoutSecret()
	}
	return result
}

// maxSubject keeps records within the audit log's limit: a key with very many
// versions or grants is cut to nothing rather than refused.
const maxSubject = 16 << 10

func encoded(v any) json.RawMessage {
	if v == nil {
		return nil
	}
	text, err := json.Marshal(v)
	if err != nil || len(text) > maxSubject {
		return json.RawMessage(`{"omitted":"it is too long"}`)
	}
	return text
}
