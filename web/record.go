package web

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/go-chi/chi/v5"

	"holdfast/appliance"
	"holdfast/appliance/audit"
)

type actorKey struct{}

// WithActor says who calls, for the audit log.
func WithActor(ctx context.Context, actor string) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

func actorOf(ctx context.Context) string {
	actor, _ := ctx.Value(actorKey{}).(string)
	return actor
}

// audited has an operation recorded, with what it is about as it was before and
// after. If nothing can be recorded, nothing is done.
func (a *api) audited(operation func(r *http.Request) (any, error)) func(r *http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		if err := a.audit.Ready(); err != nil {
			return nil, err
		}
		before := a.subject(r)
		result, err := operation(r)
		after := a.subject(r)
		if after == nil && before == nil && err == nil {
			after = shown(result) // it is new
		}
		if auditErr := a.record(r, before, after, err); auditErr != nil {
			a.log.Error("an operation of an administrator was done, and could not be recorded", "path", r.URL.Path, "error", auditErr)
			return nil, appliance.Errorf(appliance.CodeInternal, "it was done, but could not be recorded in the audit log; look at its state before you repeat it")
		}
		return result, err
	}
}

// record writes what became of the request.
func (a *api) record(r *http.Request, before, after any, err error) error {
	rec := &audit.Record{Kind: audit.KindAdmin, Operation: operationName(r), Result: audit.Allowed, Actor: actorOf(r.Context()),
		KeyStore: keyStore(r), Key: key(r), Before: encoded(before), After: encoded(after)}
	if err != nil {
		rec.Result, rec.Error, rec.After = audit.Failed, string(appliance.CodeOf(err)), nil
	}
	a.log.Info("admin", "operation", rec.Operation, "path", r.URL.Path, "actor", rec.Actor, "result", string(rec.Result))
	return a.audit.Record(context.WithoutCancel(r.Context()), rec)
}

// operationName is the method and the route, such as
// "POST keystores/{keystore}/keys".
func operationName(r *http.Request) string {
	pattern := chi.RouteContext(r.Context()).RoutePattern()
	return r.Method + " " + strings.TrimPrefix(pattern, "/api/v1/")
}

// subject is what the route names, as it is now; nil if there is none, or the
// route makes it.
func (a *api) subject(r *http.Request) any {
	ctx, store := r.Context(), keyStore(r)
	credential, grant := chi.URLParam(r, "credential"), chi.URLParam(r, "grant")
	switch {
	case key(r) != "":
		if k, err := a.domain.ShowKey(ctx, store, key(r)); err == nil {
			return k
		}
	case credential != "":
		list, _ := a.domain.Credentials(ctx, store)
		if i := slices.IndexFunc(list, func(c *appliance.Credential) bool { return c.AccessKeyID == credential }); i >= 0 {
			return list[i]
		}
	case grant != "":
		list, _ := a.domain.Grants(ctx, store)
		if i := slices.IndexFunc(list, func(g *appliance.Grant) bool { return g.ID == grant }); i >= 0 {
			return list[i]
		}
	case store != "" && r.Method == http.MethodDelete:
		if ks, err := a.domain.ShowKeyStore(ctx, store); err == nil {
			return ks
		}
	}
	return nil
}

// shown is a result without the secret that it may show this once.
func shown(result any) any {
	if c, ok := result.(CreatedCredential); ok {
		return c.Credential
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

// checkpoint signs the audit log as it is now.
func (a *api) checkpoint(*http.Request) (any, error) {
	text, err := a.audit.Checkpoint()
	return map[string]string{"checkpoint": string(text)}, err
}
