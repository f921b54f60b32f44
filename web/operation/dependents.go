package operation

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/approval"
	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// DependentsOf names what is to be taken out of service; everything if it names nothing.
type DependentsOf struct {
	KeyStore   string `query:"key_store" about:"a key store's name" json:"-"`
	Key        string `query:"key" about:"an external key's ID; give its key store, too" json:"-"`
	Credential string `query:"credential" about:"a credential's access key ID; give its key store, too" json:"-"`
	Grant      string `query:"grant" about:"a grant's ID; give its key store, too" json:"-"`
	User       string `query:"user" about:"a user's ID; it needs the role administrator" json:"-"`
	Node       string `query:"node" about:"the ID of a node of the fleet" json:"-"`
}

// Dependents are what relies on a thing.
type Dependents struct {
	// Object is the thing in words; Name is what a person types to confirm what is done to it.
	Object string `json:"object" jsonschema:"The thing, in words." example:"key payments-2026"`
	Name   string `json:"name" jsonschema:"What a person types to confirm what is done to the thing." example:"payments-2026"`
	// Says are sentences on what relies on it.
	Says []string `json:"says" jsonschema:"What relies on the thing, in sentences."`
	// Uses are requests of KMS that were answered by means of it; nil where none are counted.
	Uses *Uses `json:"uses,omitempty" jsonschema:"Requests of KMS that were answered by means of the thing, from the audit log; absent where none are counted."`
	// Things are keys, grants and others under it, or of it, by kind.
	Things []DependentThings `json:"things" jsonschema:"What there is under the thing, or of it, by kind."`
	// Unknown says what could not be found out.
	Unknown []string `json:"unknown" jsonschema:"What could not be found out, in sentences; empty if all is known."`
}

// Uses are requests of KMS that were allowed in the last seven days.
type Uses struct {
	// Last is the newest; zero if there was none.
	Last time.Time `json:"last,omitzero" jsonschema:"When the thing was last used; absent if not in the last seven days."`
	// Day and Week are how many there were in 24 hours and in seven days. If More, only the newest
	// were counted, since the time Since, and there may be more.
	Day  int  `json:"day" jsonschema:"How many requests there were in the last 24 hours."`
	Week int  `json:"week" jsonschema:"How many requests there were in the last seven days."`
	More bool `json:"more" jsonschema:"Whether only the newest requests were counted, so that there may be more."`
	// Silent are the IDs of the nodes whose logs did not answer: there may be more requests, of any
	// time, and other callers.
	Silent []string `json:"silent" jsonschema:"The IDs of the nodes whose audit logs did not answer. What they have recorded is not counted, and may be newer; empty if all have answered."`
	// Callers are the principals, those with the most requests first.
	Callers []CallerUses `json:"callers" jsonschema:"The principals whose requests were counted, those with the most first; at most 20."`
}

// CallerUses are the requests of a principal.
type CallerUses struct {
	Principal string    `json:"principal" jsonschema:"The principal's ARN, as KMS sent it (awsPrincipalArn)."`
	Requests  int       `json:"requests" jsonschema:"How many requests of the principal were counted."`
	Last      time.Time `json:"last" jsonschema:"When the principal made the newest of them."`
}

// DependentThings are things of a kind.
type DependentThings struct {
	Kind  string `json:"kind" jsonschema:"The kind of the things, in words." example:"grants"`
	Count int    `json:"count" jsonschema:"How many there are."`
	// Names are some of them.
	Names []string `json:"names" jsonschema:"The names of some of them, at most 20."`
}

const (
	// countedUses is how many records of the audit log are counted: those of a busy key are many.
	countedUses = 1000
	// shownDependents is how many callers and names of a kind are told.
	shownDependents = 20
	// dependentsTime bounds all that is looked for, and rowsTime what of it is read of the database:
	// an outage must not wait for it, and a database that is away leaves time for the audit log.
	dependentsTime = 3 * time.Second
	rowsTime       = 2 * time.Second
)

// The operation before an outage.
var (
	ShowDependents = define(Operation[DependentsOf, *Dependents]{
		Route: Route{ID: "dependents", Method: http.MethodGet, Path: "/dependents", Absent: true, Conflicts: true, Capability: identity.ManageKeys,
			Words: "Show dependents", Summary: "What relies on a key store, key, credential, grant, user or node, or on everything: last use, callers, and what is under it"},
		KeyStore: func(_ context.Context, _ *Caller, in DependentsOf) (string, error) { return in.KeyStore, nil },
		Run: func(ctx context.Context, c *Caller, in DependentsOf) (*Dependents, error) {
			d := &dependents{Caller: c, Dependents: Dependents{Says: []string{}, Things: []DependentThings{}, Unknown: []string{}}}
			if err := d.find(ctx, in); err != nil {
				return nil, err
			}
			return &d.Dependents, nil
		},
	})
)

// dependents are looked for.
type dependents struct {
	*Caller
	Dependents
	// count counts the uses; nil where none are counted.
	count func(ctx context.Context)
}

// find looks for what the input names, and its uses, no longer than dependentsTime.
func (d *dependents) find(ctx context.Context, in DependentsOf) error {
	ctx, cancel := context.WithTimeout(ctx, dependentsTime)
	defer cancel()
	rows, end := context.WithTimeout(ctx, rowsTime)
	defer end()
	if err := d.look(rows, in); err != nil {
		return err
	}
	if d.count != nil {
		d.count(ctx)
	}
	return nil
}

// look looks for what the input names: fault.Invalid if that is not one thing.
func (d *dependents) look(ctx context.Context, in DependentsOf) error {
	named, inStore := 0, in.Key != "" || in.Credential != "" || in.Grant != ""
	for _, name := range []string{cmp.Or(in.Key, in.Credential, in.Grant, in.KeyStore), in.User, in.Node} {
		if name != "" {
			named++
		}
	}
	switch {
	case inStore && in.KeyStore == "":
		return invalid("a key, a credential and a grant are of a key store: give key_store too")
	case named > 1, in.Key != "" && (in.Credential != "" || in.Grant != ""), in.Credential != "" && in.Grant != "":
		return invalid("give one thing: a key_store, or in it a key, a credential or a grant; or a user; or a node; or nothing, for everything")
	case in.User != "":
		return d.ofUser(ctx, in.User)
	case in.Node != "":
		return d.ofNode(in.Node)
	case in.KeyStore == "":
		d.of(thing{kind: everythingName, words: everythingName})
		return d.known("The key stores are", d.ofEverything(ctx))
	case in.Key != "":
		d.of(thing{kind: "key", words: "key " + in.Key})
		return d.known("The key is", d.ofKey(ctx, in))
	}
	return d.ofKeyStore(ctx, in)
}

func (d *dependents) of(o thing) { d.Object, d.Name = o.words, o.name() }

// known notes that something could not be found out. What is not there is an error.
func (d *dependents) known(what string, err error) error {
	if err == nil || fault.CodeOf(err) == fault.NotFound {
		return err
	}
	d.Unknown = append(d.Unknown, what+" not known: "+d.message(context.Background(), err)+".")
	return nil
}

func (d *dependents) add(kind string, names []string) {
	if len(names) > 0 {
		d.Things = append(d.Things, DependentThings{Kind: kind, Count: len(names), Names: names[:min(len(names), shownDependents)]})
	}
}

func (d *dependents) ofEverything(ctx context.Context) error {
	d.uses(AuditFilter{}, nil)
	stores, err := d.Domain.KeyStores(ctx)
	var names []string
	for _, ks := range stores {
		names = append(names, ks.Name)
	}
	d.add("key stores", names)
	return err
}

func (d *dependents) ofKey(ctx context.Context, in DependentsOf) error {
	key, err := d.Domain.ShowKey(ctx, in.KeyStore, in.Key)
	if err != nil && fault.CodeOf(err) == fault.NotFound {
		return err
	}
	d.uses(AuditFilter{KeyStore: in.KeyStore, Key: in.Key}, nil)
	if err != nil {
		return err
	}
	d.add("grants on this key alone", grantsWords(key.Grants))
	versions := make([]string, len(key.Versions))
	for i, v := range key.Versions {
		versions[i] = fmt.Sprint(v.Version)
	}
	d.add("versions, which decrypt", versions)
	return nil
}

func grantsWords(list []*appliance.Grant) (words []string) {
	for _, g := range list {
		words = append(words, grantWords(g))
	}
	return words
}

// ofKeyStore tells of a key store, or of a credential or a grant of it.
func (d *dependents) ofKeyStore(ctx context.Context, in DependentsOf) error {
	switch {
	case in.Credential != "":
		return d.ofCredential(ctx, in)
	case in.Grant != "":
		return d.ofGrant(ctx, in)
	}
	d.of(thing{kind: "key store", words: "key store " + in.KeyStore})
	ks, err := d.Domain.ShowKeyStore(ctx, in.KeyStore)
	if err := d.known("What is in the key store is", err); err != nil {
		return err
	}
	d.uses(AuditFilter{KeyStore: in.KeyStore}, nil)
	if err != nil {
		return nil
	}
	keys, err := d.Domain.Keys(ctx, in.KeyStore, appliance.Page{Limit: shownDependents}, "")
	if err := d.known("The key store's keys are", err); err != nil {
		return err
	}
	if ks.Keys > 0 {
		names := make([]string, len(keys))
		for i, k := range keys {
			names[i] = k.ID
		}
		d.Things = append(d.Things, DependentThings{Kind: "keys", Count: ks.Keys, Names: names})
	}
	d.add("active credentials", activeCredentials(ks.Credentials, ""))
	d.add("grants on all keys", grantsWords(ks.Grants))
	return nil
}

// activeCredentials are those that KMS can use, without one of them.
func activeCredentials(list []*appliance.Credential, without string) (names []string) {
	for _, c := range list {
		if c.Active && c.AccessKeyID != without {
			names = append(names, c.AccessKeyID)
		}
	}
	return names
}

func (d *dependents) ofCredential(ctx context.Context, in DependentsOf) error {
	d.of(thing{kind: "credential", words: "credential " + in.Credential})
	list, err := d.Domain.Credentials(ctx, in.KeyStore)
	if err != nil {
		return d.known("The credential is", err)
	}
	i := slices.IndexFunc(list, func(c *appliance.Credential) bool { return c.AccessKeyID == in.Credential })
	if i < 0 {
		return fault.Errorf(fault.NotFound, "key store %q has no credential %q", in.KeyStore, in.Credential)
	}
	switch last := list[i].LastUsedAt; {
	case last.IsZero() && d.Fleet != nil:
		d.Says = append(d.Says, "This node knows of no use by KMS. Another node tells of a first one within half a minute: look once more after that.")
	case last.IsZero():
		d.Says = append(d.Says, "KMS has never used it.")
	default:
		d.Says = append(d.Says, "KMS used it last on "+last.UTC().Format("2006-01-02 15:04:05")+" UTC.")
	}
	others := activeCredentials(list, in.Credential)
	if len(others) == 0 {
		d.Says = append(d.Says, "No other credential of the key store is active: without this one all requests of KMS to it are refused.")
	}
	d.add("other active credentials", others)
	return nil
}

func (d *dependents) ofGrant(ctx context.Context, in DependentsOf) error {
	d.of(thing{kind: "grant", words: "grant " + in.Grant})
	list, err := d.Domain.Grants(ctx, in.KeyStore)
	if err != nil {
		return d.known("The grant is", err)
	}
	i := slices.IndexFunc(list, func(g *appliance.Grant) bool { return g.ID == in.Grant })
	if i < 0 {
		return fault.Errorf(fault.NotFound, "key store %q has no grant %q", in.KeyStore, in.Grant)
	}
	g := list[i]
	d.of(objectIn(g))
	if g.Effect == appliance.EffectForbid {
		d.Says = append(d.Says, "It forbids: without it, what other grants and policies allow is allowed.")
		return nil
	}
	d.uses(AuditFilter{KeyStore: in.KeyStore, Key: g.KeyID}, func(r *audit.Record) bool { return slices.Contains(r.Policies, g.ID) })
	return nil
}

// ofUser tells of a user, which administrators alone may know.
func (d *dependents) ofUser(ctx context.Context, id string) error {
	if !d.Who.Role.May(identity.Administer) {
		return fault.Errorf(fault.Forbidden, "the role %s may not look at users: it needs administrator", d.Who.Role)
	}
	u, err := d.Identity.User(ctx, id)
	if err != nil {
		return err
	}
	d.of(objectIn(u))
	sessions, err := d.Identity.Sessions(ctx, id)
	if err := d.known("The user's sessions are", err); err != nil {
		return err
	}
	var names []string
	for _, s := range sessions {
		names = append(names, "from "+s.Address+", "+s.UserAgent)
	}
	d.add("sessions, which end", names)
	if err := d.tokensOf(ctx, u); err != nil {
		return err
	}
	return d.approvalsOf(ctx, u)
}

// tokensOf tells of the tokens that a user has made.
func (d *dependents) tokensOf(ctx context.Context, u *identity.User) error {
	tokens, err := d.Identity.Tokens(ctx)
	if err := d.known("The API tokens that the user has made are", err); err != nil {
		return err
	}
	var names []string
	for _, t := range tokens {
		if t.By(u) && t.RevokedAt.IsZero() && d.Now().Before(t.ExpiresAt) {
			names = append(names, t.Name)
		}
	}
	d.add("API tokens that the user has made, which stay good until somebody revokes them", names)
	return nil
}

// approvalsOf tells of the requests of a user that wait.
func (d *dependents) approvalsOf(ctx context.Context, u *identity.User) error {
	if d.Approvals == nil {
		return nil
	}
	all, err := d.Approvals.Approvals(ctx, approval.MaxListed)
	if err := d.known("The user's requests for approval are", err); err != nil {
		return err
	}
	var names []string
	for _, r := range all {
		if r.UserID == u.ID && r.State == approval.Pending && d.Now().Before(r.ExpiresAt) {
			names = append(names, wordsOfID(r.Operation))
		}
	}
	d.add("requests for approval of the user", names)
	return nil
}

func (d *dependents) ofNode(id string) error {
	n, err := d.node(id)
	if err != nil {
		return err
	}
	d.of(objectIn(n))
	var others []string
	for _, o := range d.Fleet.FleetStatus().Nodes {
		if o.ID != id && o.Serves && o.State != appliance.NodeDrained {
			others = append(others, o.ID)
		}
	}
	if len(others) == 0 {
		d.Says = append(d.Says, "No other node of the fleet serves: without this one no request of KMS is answered.")
	}
	d.add("other nodes that serve", others)
	return nil
}

// uses has the uses of a thing counted.
func (d *dependents) uses(f AuditFilter, is func(*audit.Record) bool) {
	d.count = func(ctx context.Context) { d.countUses(ctx, f, is) }
}

// countUses counts what the audit log has of a thing in the last seven days.
func (d *dependents) countUses(ctx context.Context, f AuditFilter, is func(*audit.Record) bool) {
	now := d.Now()
	f.From, f.Kind, f.Result = now.AddDate(0, 0, -7), audit.KindXKS, audit.Allowed
	q := f.Query()
	q.Limit = countedUses
	found, err := d.searchAudit(ctx, q, "")
	if err != nil {
		_ = d.known("Who has used it is", fault.Wrapf(fault.Internal, err, "the audit log cannot be searched")) // none is NotFound
		return
	}
	u, callers := &Uses{More: found.Next != "", Silent: []string{}, Callers: []CallerUses{}}, map[string]*CallerUses{}
	for _, s := range found.Silent {
		u.Silent = append(u.Silent, s.Node)
		d.Unknown = append(d.Unknown, "The uses that node "+s.Node+" has recorded are not known: it does not answer.")
	}
	for _, r := range found.Records {
		if is != nil && !is(r.Record) {
			continue
		}
		u.Week++
		if r.Time.After(now.Add(-24 * time.Hour)) {
			u.Day++
		}
		if u.Last.Before(r.Time) {
			u.Last = r.Time
		}
		by := callers[r.Principal]
		if by == nil {
			by = &CallerUses{Principal: r.Principal}
			callers[r.Principal] = by
		}
		by.Requests++
		if by.Last.Before(r.Time) {
			by.Last = r.Time
		}
	}
	for _, by := range callers {
		u.Callers = append(u.Callers, *by)
	}
	slices.SortFunc(u.Callers, func(a, b CallerUses) int {
		return cmp.Or(cmp.Compare(b.Requests, a.Requests), strings.Compare(a.Principal, b.Principal))
	})
	u.Callers = u.Callers[:min(len(u.Callers), shownDependents)]
	d.Uses = u
}

// Sentences say the uses, for people.
func (u *Uses) Sentences() []string {
	if u == nil {
		return nil
	}
	silent := ""
	switch len(u.Silent) {
	case 0:
	case 1:
		silent = "Node " + u.Silent[0] + " does not answer: it may have answered requests that are not counted here."
	default:
		silent = fmt.Sprintf("%d nodes do not answer: they may have answered requests that are not counted here.", len(u.Silent))
	}
	least, last, says := "", "KMS used it last on %s UTC.", []string(nil)
	if silent != "" {
		says, last = append(says, silent), "The last use that is known was on %s UTC."
	}
	switch {
	case u.Week == 0 && u.More:
		return append(says, "None of the newest requests used it; there are more of them than were looked at.")
	case u.Week == 0 && silent != "":
		return append(says, "The logs that answered have no use of it in the last seven days. Whether it is used is not known.")
	case u.Week == 0:
		return append(says, "No request of KMS used it in the last seven days.")
	}
	if u.More || silent != "" {
		least = "at least "
	}
	return append(says, fmt.Sprintf(last, u.Last.UTC().Format("2006-01-02 15:04:05")),
		fmt.Sprintf("Requests answered: %s%d in the last 24 hours, %s%d in the last seven days.", least, u.Day, least, u.Week))
}
