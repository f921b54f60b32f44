package operation

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"holdfast/appliance"
	"holdfast/appliance/approval"
	"holdfast/appliance/audit"
	"holdfast/appliance/identity"
)

// thing is what an operation is done to, as the audit log names it.
type thing struct {
	kind, id, words string
	called          string // what people call it, where that is neither the ID nor in the words
	keyStore, key   string // where the operation's path does not name them
}

// Objects are the kinds of what operations are done to, by the parameter of the path that names
// one. What stands first is more special than what follows.
var objects = []struct{ parameter, kind string }{
	{"credential", "credential"}, {"grant", "grant"}, {"key", "key"}, {"keystore", "key store"}, {"passkey", "passkey"}, {"session", "session"},
	{"token", "API token"}, {"invitation", "invitation"}, {"user", "user"}, {"node", "node"}, {"approval", "request for approval"}, {"setting", "setting"},
}

// objectOf gives what an operation is about: what is there, or what its path and input name.
func (p *performance) objectOf(subject any) thing {
	if o := objectIn(subject); o.kind != "" {
		return o
	}
	for _, o := range objects {
		if o.parameter == "keystore" {
			continue // the input may name a key of it: see below
		}
		if id := bounded(p.path(o.parameter)); id != "" {
			if strings.HasPrefix(id, identity.TokenPrefix) { // a token in place of its ID
				id = identity.TokenPrefix + "..."
			}
			return thing{kind: o.kind, id: id, words: o.kind + " " + id}
		}
	}
	switch keyStore, key := p.about(); {
	case key != "":
		return thing{kind: "key", id: bounded(key), words: "key " + bounded(key)}
	case keyStore != "":
		return thing{kind: "key store", id: bounded(keyStore), words: "key store " + bounded(keyStore)}
	}
	if p.route == Block.Entry() || p.route == Unblock.Entry() {
		return thing{kind: everythingName, words: everythingName}
	}
	return thing{}
}

// objectIn says what a subject, or an answer, is; nothing of what has no name.
func objectIn(subject any) thing {
	switch s := subject.(type) {
	case *appliance.Grant:
		return thing{kind: "grant", id: s.ID, words: grantWords(s), called: s.Principal, key: s.KeyID}
	case Grant:
		return objectIn(s.Grant)
	case *appliance.Credential:
		return thing{kind: "credential", id: s.AccessKeyID, words: "credential " + s.AccessKeyID}
	case appliance.Credential:
		return objectIn(&s)
	case *appliance.Discarded:
		return thing{}
	case *appliance.Node:
		return thing{kind: "node", id: s.ID, words: "node " + s.ID}
	case *identity.User:
		return thing{kind: "user", id: s.ID, words: "user " + s.Name}
	case identity.Token:
		return thing{kind: "API token", id: s.ID, words: "API token " + s.Name}
	case identity.Invitation:
		return thing{kind: "invitation", id: s.ID, words: "invitation of " + s.Name}
	case *identity.Session:
		return objectIn(*s)
	case *identity.Passkey:
		return thing{kind: "passkey", id: s.ID, words: "passkey " + s.Name}
	case identity.Session:
		return thing{kind: "session", id: s.ID, words: "session of " + s.UserName}
	case *approval.Request:
		return thing{kind: "request for approval", id: s.ID, words: wordsOfID(s.Operation) + ", asked for by " + s.RequestedBy}
	}
	return thing{}
}

// grantWords says what a grant is.
func grantWords(g *appliance.Grant) string {
	effect := "grant to "
	if g.Effect == appliance.EffectForbid {
		effect = "prohibition for "
	}
	return effect + bounded(g.Principal) + ": " + strings.ReplaceAll(appliance.JoinOperations(g.Operations), ",", ", ")
}

// wordsOfID gives the words of the operation with an ID; the ID if there is none.
func wordsOfID(id string) string {
	if i := slices.IndexFunc(table, func(r *Route) bool { return r.ID == id }); i >= 0 {
		return table[i].Words
	}
	return id
}

// describe adds to a record what was done to what, in words.
func (p *performance) describe(rec *audit.Record, subject any) {
	o := p.objectOf(subject)
	if p.stored.kind != "" { // a decision is about what was asked for
		rec.KeyStore, rec.Key = p.stored.keyStore, p.stored.key
		if o.kind != "" {
			o.words += ": " + p.stored.words
		}
	}
	rec.ObjectKind, rec.ObjectID, rec.Object = o.kind, o.id, o.words
	rec.Key = cmp.Or(rec.Key, o.key)
	rec.Action = p.route.Words
	if p.in != nil {
		rec.Action = p.route.variant(p.in)
	}
}

// askedFor gives what a request for approval, which the input names, is about: so its decision is
// on record with the key.
func (p *performance) askedFor(ctx context.Context) thing {
	of, ok := p.in.(interface{ request() string })
	if !ok || p.Approvals == nil {
		return thing{}
	}
	r, err := p.Approvals.Approval(ctx, of.request())
	if err != nil {
		return thing{}
	}
	return p.aboutRequest(ctx, r)
}

// aboutRequest gives what a request for approval is about; nothing if this release cannot read it.
func (c *Caller) aboutRequest(ctx context.Context, r *approval.Request) thing {
	route, q, err := stored(r)
	if err != nil {
		return thing{}
	}
	in, err := q.Read()
	if err != nil {
		return thing{}
	}
	defer Wipe(in)
	of := &performance{Caller: c, route: route, path: q.Path, in: in}
	o := of.objectOf(of.subject(ctx))
	keyStore, key := of.about()
	o.keyStore, o.key = keyStore, cmp.Or(key, o.key)
	o.kind = cmp.Or(o.kind, "operation")
	return o
}

// ActionOf gives what a record says was done, in the words of the button. Records of earlier
// releases have the route alone; what is unknown is given as it is.
func ActionOf(r *audit.Record) string {
	if r.Action != "" {
		return r.Action
	}
	if r.Kind != audit.KindAdmin {
		return r.Operation
	}
	operation, asks := strings.CutPrefix(r.Operation, askedApproval)
	operation, part := strings.CutPrefix(operation, partOf)
	operation, again := strings.CutPrefix(operation, replayOf)
	i := slices.IndexFunc(table, func(route *Route) bool { return route.Operation() == operation })
	if i < 0 {
		return r.Operation
	}
	words := table[i].Words
	switch operation {
	case Block.Operation():
		words = blockWords.of(appliance.BlockTarget{KeyStore: r.KeyStore, KeyID: r.Key})
	case Unblock.Operation():
		words = unblockWords.of(appliance.BlockTarget{KeyStore: r.KeyStore, KeyID: r.Key})
	}
	switch {
	case asks:
		return askedWords + words
	case again:
		return replayWords + words
	case part:
		return "Part of: " + words
	}
	return words
}

const (
	// askedApproval begins the operation of a record by which a second person was asked; partOf that
	// of a part of a long record.
	askedApproval = "ask for approval of "
	partOf        = "part of "
	// askedWords begin its words.
	askedWords = "Ask for approval: "
	// replayOf begins the operation of a record by which a secret was shown again, as the request was
	// sent again with its idempotency key; replayWords begin its words.
	replayOf    = "replay of "
	replayWords = "Show again: "
)

// ObjectOf gives what a record is about, in words, also of an earlier release.
func ObjectOf(r *audit.Record) string {
	switch {
	case r.Object != "":
		return r.Object
	case r.Key != "":
		return "key " + r.Key
	case r.KeyStore != "":
		return "key store " + r.KeyStore
	}
	return ""
}

// WayOf says by which proof the actor of a record came, in short; empty if it does not say.
func WayOf(r *audit.Record) string {
	session, token := r.Session, r.Token
	if session == "" && token == "" && r.Kind == audit.KindAdmin { // of an earlier release
		way, _, _ := strings.Cut(r.Detail, ", approved by ")
		if id, ok := strings.CutPrefix(way, "session "); ok {
			session = id
		}
		if id, ok := strings.CutPrefix(way, "token "); ok {
			token = id
		}
	}
	switch {
	case session != "":
		return "session " + short(session)
	case token != "":
		return "API token " + short(token)
	case strings.HasPrefix(r.Actor, "local uid "):
		return "socket"
	}
	return ""
}

func short(id string) string { return id[:min(8, len(id))] }

// ApproverOf gives who approved what a record says; empty for nobody.
func ApproverOf(r *audit.Record) string {
	if r.ApprovedBy == "" && r.Kind == audit.KindAdmin {
		if _, by, ok := strings.Cut(", "+r.Detail, ", approved by "); ok {
			return by
		}
	}
	return r.ApprovedBy
}

// DetailOf gives what a record says besides, without what earlier releases wrote there of session,
// token and approver.
func DetailOf(r *audit.Record) string {
	if r.Kind == audit.KindAdmin && (strings.HasPrefix(r.Detail, "session ") || strings.HasPrefix(r.Detail, "token ") || strings.HasPrefix(r.Detail, "approved by ")) {
		return ""
	}
	return r.Detail
}
