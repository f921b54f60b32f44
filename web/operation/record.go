package operation

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// refused records that a caller who is known may not do what they asked for.
func (p *performance) refused(ctx context.Context, err error) {
	rec := p.record(audit.Denied, err)
	rec.Asked = p.asked()
	if auditErr := p.write(ctx, rec); auditErr != nil {
		p.Log.Error("a refusal could not be recorded", "operation", p.route.Operation(), "error", auditErr)
	}
}

// unusable records that a request to change something could not be read, or that
// nobody can tell whether it needs approval.
func (p *performance) unusable(ctx context.Context, err error) {
	if !p.route.Mutates() && !p.route.Guards().FourEyes {
		return
	}
	rec := p.record(audit.Failed, err)
	rec.Asked = p.asked()
	if auditErr := p.write(ctx, rec); auditErr != nil {
		p.Log.Error("a request that was not performed could not be recorded", "operation", p.route.Operation(), "error", auditErr)
	}
}

// changed is the record of a change that was tried.
func (p *performance) changed(before, after any, err error) *audit.Record {
	rec := p.record(audit.Allowed, nil)
	rec.Before, rec.After = encoded(before), encoded(after)
	if before == nil {
		p.describe(rec, after)
	} else {
		p.describe(rec, before)
	}
	if overridden := insisted(p.in); len(overridden) > 0 { // that it was meant stands on record, also where it was done
		rec.Asked, rec.Detail = p.asked(), "insisted on, though: "+shortened(strings.Join(overridden, "; "), maxOverridden)
	}
	if err != nil {
		rec.Result, rec.Error, rec.After = audit.Failed, string(fault.CodeOf(err)), nil
		rec.Asked = p.asked()
	}
	return rec
}

// insisting is an input by which a caller may say that what would be refused is meant.
type insisting interface {
	// insists gives in words what is overridden by that; nothing if nothing is.
	insists() []string
}

func insisted(in any) []string {
	if in, ok := in.(insisting); ok {
		return in.insists()
	}
	return nil
}

func (p *performance) record(result audit.Result, err error) *audit.Record {
	keyStore, key := p.about()
	rec := &audit.Record{Kind: audit.KindAdmin, Operation: p.route.Operation(), Result: result, Error: string(fault.CodeOf(err)),
		Actor: p.Who.Name, Session: p.Who.Session, Token: p.Who.Token, ApprovedBy: p.approvedBy, Approval: p.approval,
		Remote: p.Remote, KeyStore: bounded(keyStore), Key: bounded(key)}
	if p.approvedBy != "" { // only then have reasons been checked
		rec.Reason, rec.ApprovalWhy = p.Reason, p.approvalReason
	} else if why := p.why(); appliance.CheckReason(why) == nil {
		rec.Reason = why
	}
	p.describe(rec, nil)
	return rec
}

// why is the reason that the operation itself asks for, as a block does; empty if it asks for none.
func (p *performance) why() string {
	if v := reflect.ValueOf(p.in); v.Kind() == reflect.Struct {
		if f := v.FieldByName("Reason"); f.IsValid() && f.Kind() == reflect.String {
			return f.String()
		}
	}
	return ""
}

// asked is what the caller asked for, as far as it was read.
func (p *performance) asked() json.RawMessage { return p.route.asked(p.in, p.path) }

// maxName bounds the names in a record, in bytes. No key store or key has a longer one, and
// a body may give one that makes the record too long for the log. Asked has it whole.
const maxName = 256

// maxOverridden bounds what a record says of what was overridden, in bytes.
const maxOverridden = 2048

func bounded(name string) string { return shortened(name, maxName) }

func shortened(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}

// about gives the key store and the key that the operation is about, from the path or
// the body. A body that was not read names nothing.
func (p *performance) about() (keyStore, key string) {
	if p.in != nil {
		keyStore, key = p.route.inBody(p.in)
	}
	return cmp.Or(p.path("keystore"), keyStore), cmp.Or(p.path("key"), key)
}

// reserved says whether the operation may use the reserve of the audit log: it takes
// something out of service, saves what is there, or is needed before one that does.
func (p *performance) reserved() bool {
	return p.route.Urgency == Urgent || p.route.Recorded || p.route.WhileLocked || p.in != nil && p.route.restricts(p.in)
}

// ready says why the operation cannot be recorded; nil if it can.
func (p *performance) ready() error {
	if p.reserved() {
		return p.Audit.ReadyUrgent()
	}
	return p.Audit.Ready()
}

// write records the performance.
func (p *performance) write(ctx context.Context, rec *audit.Record) error {
	for _, part := range parts(rec) {
		if err := p.writeOne(ctx, part); err != nil {
			return err
		}
	}
	return p.writeOne(ctx, rec)
}

func (p *performance) writeOne(ctx context.Context, rec *audit.Record) error {
	if !p.reserved() {
		return p.Performer.write(ctx, rec)
	}
	p.tell(ctx, rec)
	return p.Audit.RecordUrgent(context.WithoutCancel(ctx), rec)
}

// keepHead has the head of the audit log kept in the state. That it fails does not
// undo what was done: the log says so, and the next minute tries again.
func (p *performance) keepHead(ctx context.Context) {
	if p.Options.Recorded == nil {
		return
	}
	if err := p.Options.Recorded(context.WithoutCancel(ctx)); err != nil && fault.CodeOf(err) != fault.Locked {
		p.Log.Error("the head of the audit log could not be kept in the state; the next change, or the next minute, tries again", "error", err)
	}
}

type requestKey struct{}

// WithRequest gives a context of a request that has an ID: what is recorded in it has the ID.
func WithRequest(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestKey{}, id)
}

// tell puts the ID of the request into a record, and the record into the program's log.
func (p *Performer) tell(ctx context.Context, rec *audit.Record) {
	rec.RequestID, _ = ctx.Value(requestKey{}).(string)
	p.Log.Info("admin", "request", rec.RequestID, "operation", rec.Operation, "actor", rec.Actor, "key_store", rec.KeyStore, "key", rec.Key, "result", string(rec.Result), "error", rec.Error)
}

func (p *Performer) write(ctx context.Context, rec *audit.Record) error {
	p.tell(ctx, rec)
	return p.Audit.Record(context.WithoutCancel(ctx), rec)
}

// Event records what happens to users outside of operations: that they sign in, or
// fail to; tried is the name that a stranger gave, if they did. Of strangers who fail not each one
// is recorded ([strangers]). Where the log is not open yet, as while the appliance is locked from
// its start on, the program's log alone has it: nothing can be changed then.
func (p *Performer) Event(ctx context.Context, operation, actor, tried, remote string, err error) error {
	rec := &audit.Record{Kind: audit.KindAdmin, Operation: operation, Result: audit.Allowed, Actor: actor, Remote: remote}
	if err != nil {
		leftOut, records := p.strangers.records(p.Now(), err)
		if !records {
			return nil
		}
		rec.Result, rec.Error = audit.Denied, string(fault.CodeOf(err))
		var detail []string
		if tried != "" {
			detail = append(detail, fmt.Sprintf("name tried: %.*q", maxTried, tried))
			rec.ObjectKind, rec.Object = "user", "user "+strings.Trim(fmt.Sprintf("%.*q", maxTried, tried), `"`)
		}
		if leftOut > 0 {
			detail = append(detail, fmt.Sprintf("refused before and not recorded: %d", leftOut))
		}
		rec.Detail = strings.Join(detail, "; ")
	}
	if err == nil { // who has signed in may block, so they may use the reserve; strangers may not
		p.tell(ctx, rec)
		err = p.Audit.RecordUrgent(context.WithoutCancel(ctx), rec)
	} else {
		err = p.write(ctx, rec)
	}
	if fault.CodeOf(err) == fault.Locked {
		return nil
	}
	return err
}

// strangers bounds the records of those who prove nothing, who could else fill the disk and so stop
// all service. An attempt that was not looked at, as it was one too many, has none; the others, from
// all addresses together, have so many at once and then one each second.
type strangers struct {
	mu      sync.Mutex
	limiter *rate.Limiter
	leftOut int // since the last record
}

func newStrangers() strangers { return strangers{limiter: rate.NewLimiter(1, 100)} }

// records says whether a failure is recorded, and how many before it were not.
func (s *strangers) records(now time.Time, err error) (leftOut int, _ bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if fault.CodeOf(err) == fault.Throttled || !s.limiter.AllowN(now, 1) {
		s.leftOut++
		return 0, false
	}
	leftOut, s.leftOut = s.leftOut, 0
	return leftOut, true
}

// RoleByGroups records that a sign-in by the OpenID provider gave a user another role.
func (p *Performer) RoleByGroups(ctx context.Context, who identity.Principal, was identity.Role, remote string) error {
	rec := &audit.Record{Kind: audit.KindAdmin, Operation: "set role by OpenID groups", Result: audit.Allowed, Actor: who.Name, Remote: remote,
		ObjectKind: "user", Object: "user " + who.Name, Before: encoded(map[string]identity.Role{"role": was}), After: encoded(map[string]identity.Role{"role": who.Role})}
	p.tell(ctx, rec)
	return p.Audit.RecordUrgent(context.WithoutCancel(ctx), rec)
}

// RecoveryCode records that a user has proved who they are by a recovery code in the place of the
// authenticator app's code, and has a notice of it sent.
func (p *Performer) RecoveryCode(ctx context.Context, who identity.Principal, remote string) error {
	p.announceCode(who, remote)
	return p.Event(ctx, "use a recovery code", who.Name, "", remote, nil)
}

// maxTried bounds the name of a failed sign-in in its record, in characters.
const maxTried = 64

// named gives the entry of a list that was read, which a name means: fault.NotFound, as says
// tells, if it is not there.
func named[T any](list []T, err error, is func(T) bool, says string) (entry T, _ error) {
	if err != nil {
		return entry, err
	}
	if i := slices.IndexFunc(list, is); i >= 0 {
		return list[i], nil
	}
	return entry, fault.Errorf(fault.NotFound, "%s", says)
}

// one gives the item that is meant, or nil.
func one[T any](list []*T, is func(*T) bool) any {
	if i := slices.IndexFunc(list, is); i >= 0 {
		return list[i]
	}
	return nil
}

// oneOf is one for a list of values.
func oneOf[T any](list []T, is func(T) bool) any {
	if i := slices.IndexFunc(list, is); i >= 0 {
		return list[i]
	}
	return nil
}

// found gives what was read, or nil if it was not.
func found[T any](v *T, err error) any {
	if err != nil {
		return nil
	}
	return v
}

func encoded(v any) json.RawMessage {
	if v == nil {
		return nil
	}
	v = withoutStanding(v)
	text, err := json.Marshal(v)
	if err != nil {
		text, _ = json.Marshal(map[string]string{"unreadable": err.Error()}) // of a string: never fails
	}
	return text
}

// withoutStanding gives a thing without its standing, which is computed and depends on others: a record
// says what was changed.
func withoutStanding(v any) any {
	switch v := v.(type) {
	case *appliance.KeyStore:
		return &storedKeyStore{KeyStore: *v}
	case *appliance.ExternalKey:
		return &storedExternalKey{ExternalKey: *v}
	case *appliance.StoredKey:
		return &storedKey{StoredKey: *v}
	case *appliance.Credential:
		return &storedCredential{Credential: *v}
	case appliance.Credential:
		return &storedCredential{Credential: v}
	}
	return v
}

// The member of the outer type hides that of the inner one, and is left out.
type (
	storedKeyStore struct {
		appliance.KeyStore
		Standing *struct{} `json:"standing,omitempty"`
	}
	storedExternalKey struct {
		appliance.ExternalKey
		Standing *struct{} `json:"standing,omitempty"`
	}
	storedKey struct {
		appliance.StoredKey
		Standing *struct{} `json:"standing,omitempty"`
	}
	storedCredential struct {
		appliance.Credential
		Standing *struct{} `json:"standing,omitempty"`
	}
)

// The limits of what a record tells of what an operation is about.
const (
	// maxSubject is how much of it stands in the record itself; longer ones are in parts of
	// this size before it. A part is a string of JSON, which may be twice as long.
	maxSubject = 16 << 10
	// maxInParts is how much is written in parts: a policy of any length, and a key with
	// thousands of grants. Of what is longer the record has the digest alone.
	maxInParts = 1 << 20
)

// inParts stands in a record for what is too long for it.
type inParts struct {
	SHA256 string `json:"sha256"` // of the text that the parts make, in hexadecimal
	Bytes  int    `json:"bytes"`
	Parts  int    `json:"parts"` // the records before this one that have it; 0 if it is in none
}

// parts takes what is too long for one record out of it, and gives the records that
// stand before it and have the text whole: nothing can hide behind padding.
func parts(rec *audit.Record) (list []*audit.Record) {
	for _, at := range []struct {
		name string
		text *json.RawMessage
	}{{"asked", &rec.Asked}, {"before", &rec.Before}, {"after", &rec.After}} {
		text := *at.text
		if len(text) <= maxSubject {
			continue
		}
		sum := sha256.Sum256(text)
		about := inParts{SHA256: hex.EncodeToString(sum[:]), Bytes: len(text)}
		if len(text) <= maxInParts {
			chunks := slices.Collect(chunked(string(text)))
			about.Parts = len(chunks)
			for i, c := range chunks {
				list = append(list, &audit.Record{Kind: rec.Kind, Operation: partOf + rec.Operation, Result: rec.Result, Actor: rec.Actor, Session: rec.Session, Token: rec.Token, Remote: rec.Remote,
					Action: "Part of: " + rec.Action, ObjectKind: rec.ObjectKind, ObjectID: rec.ObjectID, Object: rec.Object,
					KeyStore: rec.KeyStore, Key: rec.Key, Detail: fmt.Sprintf("%s, part %d of %d, sha256 %s", at.name, i+1, len(chunks), about.SHA256), After: encoded(c)})
			}
		}
		*at.text = encoded(about)
	}
	return list
}

// chunked cuts a text into parts of at most maxSubject bytes, between characters.
func chunked(text string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for len(text) > 0 {
			n := min(maxSubject, len(text))
			for n < len(text) && !utf8.RuneStart(text[n]) {
				n--
			}
			if !yield(text[:n]) {
				return
			}
			text = text[n:]
		}
	}
}
