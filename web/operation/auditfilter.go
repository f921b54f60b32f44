package operation

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// AuditFilter says which records are meant; all if it is empty. A record must match all of it.
type AuditFilter struct {
	From         time.Time    `query:"from" about:"only records of this time (RFC 3339) or later" json:"-"`
	To           time.Time    `query:"to" about:"only records before this time (RFC 3339)" json:"-"`
	Actor        string       `query:"actor" about:"the name of who did it or approved it: a user, an API token, or local uid 0 for root on the machine" json:"-"`
	Operation    string       `query:"operation" about:"an operation of this document by its ID, by the words of its button such as Disable key, or as in a record" json:"-"`
	Object       string       `query:"object" longest:"2048" about:"what it was done to: the ID or the name of a user, credential, grant, API token, session or node" json:"-"`
	Token        string       `query:"token" about:"the ID or the name of the API token by which it was done" json:"-"`
	Address      string       `query:"address" about:"the IP address that the request came from" json:"-"`
	Error        string       `query:"error" about:"an error's code, or its name in the XKS API" json:"-"`
	KeyStore     string       `query:"key_store" about:"a key store's name" json:"-"`
	Key          string       `query:"key" about:"an external key's ID; give its key store, too" json:"-"`
	Principal    string       `query:"principal" longest:"2048" about:"awsPrincipalArn, whole" json:"-"`
	KMSRequestID string       `query:"kms_request_id" about:"KMS's ID of a request" json:"-"`
	RequestID    string       `query:"request_id" about:"the ID of a request to this API or the console: the header Request-Id of its answer" json:"-"`
	Kind         audit.Kind   `query:"kind" enum:"xks,admin,boot,lease,audit,fleet" about:"only records of this kind" json:"-"`
	Node         string       `query:"node" about:"only records of this node of the fleet" json:"-"`
	Result       audit.Result `query:"result" enum:"allowed,denied,failed" about:"only records with this result" json:"-"`
	Life         bool         `query:"life" about:"true for what was done to the key, or the key store, that is named: without the requests of KMS, and with what was done to all keys at once" json:"-"`
}

// Query gives the query of a filter. Names of users and tokens in it stay as they are.
func (f AuditFilter) Query() audit.Query {
	q := audit.Query{From: f.From, To: f.To, KeyStore: f.KeyStore, Key: f.Key, Principal: f.Principal, KMSRequestID: f.KMSRequestID, RequestID: f.RequestID, Kind: f.Kind, Result: f.Result,
		Actor: f.Actor, Token: f.Token, Remote: f.Address, Error: f.Error, Life: f.Life}
	if f.Object != "" {
		q.Objects = []string{f.Object, "user " + f.Object, "API token " + f.Object, "invitation of " + f.Object, "session of " + f.Object}
	}
	if f.Operation != "" {
		q.Operations = operationsNamed(f.Operation)
	}
	return q
}

// operationsNamed gives the operations of records that a name means: an ID, the words of a button,
// or an operation as in records.
func operationsNamed(name string) []string {
	for _, r := range table {
		if r.ID == name || slices.ContainsFunc(r.AllWords(), func(words string) bool { return strings.EqualFold(words, name) }) {
			return []string{r.Operation(), askedApproval + r.Operation(), partOf + r.Operation(), replayOf + r.Operation()}
		}
	}
	return []string{name}
}

// RecordedWords are the words of the operations that are on record.
func RecordedWords() (all []string) {
	for _, r := range table {
		if r.Mutates() || r.Recorded {
			all = append(all, r.Words)
		}
	}
	return all
}

// Known are the names that are known to be good for a filter, apart from those in records.
type Known struct{ Actors, Objects, Tokens, KeyStores, Keys []string }

// Check says what of a filter cannot be: fault.Invalid with what was meant most likely. What is
// neither known nor in any record is a typo; what was deleted is in records. The function says
// whether a query finds anything.
func (f AuditFilter) Check(ctx context.Context, known Known, finds func(ctx context.Context, q audit.Query) (bool, error)) error {
	switch {
	case f.Key != "" && f.KeyStore == "":
		return invalid("a key is sought in a key store: give key_store too")
	case f.Life && f.KeyStore == "":
		return invalid("life is that of a key or of a key store: give key_store too")
	case !f.From.IsZero() && !f.To.IsZero() && !f.From.Before(f.To):
		return invalid("from %s is not before to %s: no record is of both", f.From.Format(time.RFC3339), f.To.Format(time.RFC3339))
	}
	if f.Address != "" && !isAddress(f.Address) {
		return invalid("address %.60q: give an IP address such as 192.0.2.7", f.Address)
	}
	for _, c := range []struct {
		name, value string
		known       []string
		alone       AuditFilter
	}{
		{"operation", f.Operation, RecordedWords(), AuditFilter{Operation: f.Operation}},
		{"error", f.Error, codes(), AuditFilter{Error: f.Error}},
		{"key_store", f.KeyStore, known.KeyStores, AuditFilter{KeyStore: f.KeyStore}},
		{"key", f.Key, known.Keys, AuditFilter{KeyStore: f.KeyStore, Key: f.Key}},
		{"actor", f.Actor, known.Actors, AuditFilter{Actor: f.Actor}},
		{"token", f.Token, known.Tokens, AuditFilter{Token: f.Token}},
		{"object", f.Object, known.Objects, AuditFilter{Object: f.Object}},
	} {
		if c.value == "" || slices.Contains(c.known, c.value) || c.name == "operation" && operationsNamed(c.value)[0] != c.value {
			continue
		}
		found, err := finds(ctx, c.alone.Query())
		if err != nil {
			return err
		}
		if !found {
			return invalid("%s %.80q is not there, and in no record%s", c.name, c.value, meant(c.value, c.known))
		}
	}
	return nil
}

func isAddress(text string) bool {
	if _, err := netip.ParseAddr(text); err == nil {
		return true
	}
	_, err := netip.ParseAddrPort(text)
	return err == nil
}

func codes() (all []string) {
	for _, e := range fault.All() {
		all = append(all, string(e.Code))
	}
	return all
}

// meant says which of the names was meant most likely; else the first of them.
func meant(word string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	const near = 3
	best, distance := "", near+1
	for _, name := range names {
		d := Typos(strings.ToLower(word), strings.ToLower(name))
		if strings.HasPrefix(strings.ToLower(name), strings.ToLower(word)) {
			d = min(d, near)
		}
		if d < distance && d < len(name) {
			best, distance = name, d
		}
	}
	if best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	const shown = 8
	list := strings.Join(names[:min(shown, len(names))], ", ")
	if len(names) > shown {
		list += ", ..."
	}
	return "; there are: " + list
}

// known gives the names that there are now. What cannot be read is left out: records decide then.
func (c *Caller) known(ctx context.Context, f AuditFilter) (k Known) {
	if f.Actor != "" || f.Object != "" || f.Token != "" {
		k = c.knownPeople(ctx)
	}
	if f.KeyStore == "" {
		return k
	}
	if stores, err := c.Domain.KeyStores(ctx); err == nil {
		for _, ks := range stores {
			k.KeyStores = append(k.KeyStores, ks.Name)
		}
	}
	if f.Key != "" {
		if _, err := c.Domain.ShowKey(ctx, f.KeyStore, f.Key); err == nil {
			k.Keys = []string{f.Key}
		} else if page, err := c.Domain.Keys(ctx, f.KeyStore, appliance.Page{Limit: 100}, ""); err == nil {
			for _, key := range page {
				k.Keys = append(k.Keys, key.ID)
			}
		}
	}
	return k
}

// knownPeople gives the names of users and API tokens.
func (c *Caller) knownPeople(ctx context.Context) (k Known) {
	k.Actors = []string{"local uid 0"}
	if users, err := c.Identity.Users(ctx); err == nil {
		for _, u := range users {
			k.Actors = append(k.Actors, u.Name)
			k.Objects = append(k.Objects, u.Name, "user "+u.Name, u.ID)
		}
	}
	if tokens, err := c.Identity.Tokens(ctx); err == nil {
		for _, t := range tokens {
			k.Actors = append(k.Actors, "token "+t.Name)
			k.Tokens = append(k.Tokens, t.Name, t.ID)
			k.Objects = append(k.Objects, "API token "+t.Name, t.ID)
		}
	}
	return k
}

// AuditActors are the names of who can act now, for the filter of the audit log; none for those who
// may not read it.
func (c *Caller) AuditActors(ctx context.Context) []string {
	if !c.Who.Role.May(identity.Audit) {
		return nil
	}
	return c.knownPeople(ctx).Actors
}

// auditQuery gives the query of a filter, whose names it has checked.
func (c *Caller) auditQuery(ctx context.Context, f AuditFilter) (audit.Query, error) {
	if err := f.Check(ctx, c.known(ctx, f), func(ctx context.Context, q audit.Query) (bool, error) {
		q.Limit = 1
		found, err := c.searchAudit(ctx, q, "")
		// Of a node that does not answer nobody knows.
		return err == nil && (len(found.Records) > 0 || len(found.Silent) > 0), err
	}); err != nil {
		return audit.Query{}, err
	}
	q := f.Query()
	return q, c.resolve(ctx, f, &q)
}

// resolve puts IDs in the place of names, by which records of earlier releases are found.
func (c *Caller) resolve(ctx context.Context, f AuditFilter, q *audit.Query) error {
	if f.Token != "" {
		tokens, err := c.Identity.Tokens(ctx)
		if err != nil {
			return err
		}
		for _, t := range tokens {
			if t.Name == f.Token {
				q.Token = t.ID
			}
		}
	}
	if f.Object != "" {
		users, err := c.Identity.Users(ctx)
		if err != nil {
			return err
		}
		for _, u := range users {
			if u.Name == f.Object || "user "+u.Name == f.Object {
				q.Objects = append(q.Objects, u.ID)
			}
		}
	}
	return nil
}
