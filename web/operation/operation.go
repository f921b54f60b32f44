package operation

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strings"

	"holdfast/appliance/identity"
)

// Route is what can be said of an operation without its types.
type Route struct {
	// ID names the operation in the OpenAPI document, in settings and in requests for
	// approval.
	ID     string
	Method string
	// Path is what follows [Prefix], with parameters in braces.
	Path string
	// Words are what the operation is called wherever people meet it: on its button, in
	// approvals, settings, audit log and documentation, in AWS's terms where KMS has them, such
	// as "Disable key". No other operation has them.
	Words string
	// Variants are the words of an operation that is several, such as "Block key store" and
	// "Block key"; its Words say what they have in common.
	Variants []string
	// Summary says what the operation does, in a sentence.
	Summary string
	// Capability is what the caller's role must have.
	Capability identity.Capability
	// Effects say what the operation can do. What it asks of its caller follows from them
	// ([Route.Guards]).
	Effects Effects
	// Alone says why no second person can be asked for the operation; empty if one can.
	Alone string
	// Many is the operation of which this one does many at once, as of a file; nil for none. Where
	// that one needs a second person, this one does, too: else one person does with it what two
	// must do.
	Many *Route
	// ConfirmedIf says which inputs a person confirms, such as "if it lowers the quota", where not
	// each one can do harm ([Operation.Confirmed]); empty for each, as far as the Effects say so.
	ConfirmedIf string
	// WhileLocked operations may be performed by a user whose row nobody can verify,
	// as the appliance is locked: to look, to give the PIN and to block. An attacker
	// who writes to the database could have made that user.
	WhileLocked bool
	// WhileHeld operations may be performed by people while the state is held, as those
	// that are WhileLocked: to accept it. Root at the socket may do all.
	WhileHeld bool
	// ReadOnly operations change nothing, though they are posted.
	ReadOnly bool
	// Recorded operations read, and are in the audit log all the same: something
	// leaves the appliance.
	Recorded bool
	// Urgency says what a change waits for.
	Urgency Urgency
	// Outside operations change nothing in the state, but what is beside it: in the TPM, on this
	// machine's disk, or in memory. What an idempotency key needs is written before they are
	// performed, as no transaction of theirs can have it.
	Outside bool
	// Narrows says that the operation is a list from which what belongs to other key stores than
	// those in the scope of the caller's API token is left out ([Caller.shows]).
	Narrows bool
	// BeyondScope operations give rights that no scope of an API token limits, such as those of a
	// user: a token with a limit may not perform them.
	BeyondScope bool
	// Absent operations may find that what they are about is not there, although their path
	// names nothing.
	Absent bool
	// Conflicts says that the state of the appliance may forbid the operation, although it
	// changes nothing.
	Conflicts bool
	// Revision is the path of the GET whose ETag names the state that the operation changes
	// ([Route.Shown]), where that is not the thing that Path names; "-" for none.
	Revision string
	// BinaryAnswer is the media type of an answer that is a [Stream].
	BinaryAnswer string
	// OtherAnswer is another media type that the caller may ask for; empty for none.
	OtherAnswer string
	// Makes is the path of the thing that the operation makes, as Path; parameters that Path
	// has not are members of the answer. Empty if it makes no thing with a path.
	Makes string

	// What follows is made of the types of input and answer.

	// BinaryRequest is the media type of a body that is not JSON.
	BinaryRequest string
	// Query are the parameters after the path's.
	Query []Parameter

	input, answer reflect.Type
	secretMember  *member // of the input; nil if it takes no secret
	fields        fields
	subject       func(ctx context.Context, c *Caller, in any) any
	inBody        func(in any) (keyStore, key string)
	keyStore      func(ctx context.Context, c *Caller, in any) (string, error) // nil if only the path can name one
	mayRestrict   bool                                                         // Restricts is given
	restricts     func(in any) bool
	confirmed     func(now, in any) bool
	warning       func(c *Caller, now, in any) string
	variant       func(in any) string
	check         func(ctx context.Context, c *Caller, in any) error
	filed         func(ctx context.Context, c *Caller, in, stored any) (any, error)
	run           func(ctx context.Context, c *Caller, in any) (any, error)
	done          func(out any, effect *Effect) any
}

// Entry gives the route itself, of any operation.
func (r *Route) Entry() *Route { return r }

// Entry is an operation of any type.
type Entry interface{ Entry() *Route }

// Mutates says whether the operation is recorded as one that changes something.
func (r *Route) Mutates() bool { return r.Method != http.MethodGet }

// Changes says whether it changes something. Its answer then has an [Effect].
func (r *Route) Changes() bool { return r.Mutates() && !r.ReadOnly }

// ShowsSecret says whether the answer has something that is shown once.
func (r *Route) ShowsSecret() bool { return r.answer.Implements(reflect.TypeFor[secret]()) }

// TakesSecret says whether the input may hold a [Secret].
func (r *Route) TakesSecret() bool { return holdsSecret(r.input) }

// Operation is what the audit log calls it: the method and the route, such as
// "POST keystores/{keystore}/keys".
func (r *Route) Operation() string { return r.Method + " " + strings.TrimPrefix(r.Path, "/") }

// Success is the HTTP status of an answer that says that it is done.
func (r *Route) Success() int {
	if r.Makes != "" {
		return http.StatusCreated
	}
	return http.StatusOK
}

// Location is where the thing is that the operation has made: empty if it makes none.
func (r *Route) Location(path func(name string) string, done any) string {
	if r.Makes == "" {
		return ""
	}
	var made map[string]any
	if text, err := json.Marshal(done); err != nil || json.Unmarshal(text, &made) != nil {
		return "" // what was answered is a JSON object: a test asks each
	}
	return Prefix + inPath.ReplaceAllStringFunc(r.Makes, func(name string) string {
		name = strings.Trim(name, "{}")
		value := path(name)
		if value == "" {
			value = fmt.Sprint(made[name])
		}
		return url.PathEscape(value)
	})
}

// LocationOf is where the request for approval is that an operation waits for.
func LocationOf(waits *Pending) string {
	return Prefix + ShowApproval.path(ApprovalName{Approval: waits.Request.ID})
}

// Tagged says whether answers have an entity tag.
func (r *Route) Tagged() bool { return !r.Mutates() && r.BinaryAnswer == "" }

// Input and Answer are the types of what it takes and gives.
func (r *Route) Input() reflect.Type  { return r.input }
func (r *Route) Answer() reflect.Type { return r.answer }

// HasSubject says whether it is declared what the operation is about.
func (r *Route) HasSubject() bool { return r.subject != nil }

// HasCheck says whether it can be asked without performing it.
func (r *Route) HasCheck() bool { return r.check != nil }

// MayRestrict says whether it takes something out of service, or a right away, with some input.
func (r *Route) MayRestrict() bool { return r.mayRestrict || r.Urgency == Urgent }

// TakesBody says whether its body is JSON with members.
func (r *Route) TakesBody() bool { return len(members(r.input)) > 0 }

// Operation is an operation that takes In and gives Out.
type Operation[In, Out any] struct {
	Route
	// Subject gives what the operation is about, as it is now: nil if it is not there.
	// It is read before and after a change for the record, and compared with the
	// revision that the caller saw. [makes] stands for a thing that the operation
	// makes, [apart] for none.
	Subject func(ctx context.Context, c *Caller, in In) any
	// Named gives the key store and the key that the operation is about, where the body
	// names them: the record has them. Those of the path it has by themselves.
	Named func(in In) (keyStore, key string)
	// KeyStore gives the key store that the operation is about, where neither the path nor
	// Named does: the scope of an API token must have it. Empty for all of them.
	KeyStore func(ctx context.Context, c *Caller, in In) (string, error)
	// Variant gives which of the Variants an input asks for.
	Variant func(in In) string
	// Restricts says whether the input takes something out of service, or a right away, where
	// not each input does and the operation is not [Urgent]. Such an operation is done while
	// the disk of the audit log has its reserve alone.
	Restricts func(in In) bool
	// Confirmed says whether an input is one of ConfirmedIf. Now is the subject as it is; nil if it
	// is not known: then each input is that may be one.
	Confirmed func(now any, in In) bool
	// Warning says what the operation does to its caller, where it does something to them; now is
	// the subject. Empty for nothing.
	Warning func(c *Caller, now any, in In) string
	// Check gives the error that Run would, as far as that is known before, and
	// changes nothing. Each approvable operation has one.
	Check func(ctx context.Context, c *Caller, in In) error
	// Filed gives the input that a request for approval stores, which has not the secret or the
	// file, with what the one who approves must know of that. Nil where there is nothing.
	Filed func(ctx context.Context, c *Caller, in, stored In) (In, error)
	// Run performs it. It is called by Do alone.
	Run func(ctx context.Context, c *Caller, in In) (Out, error)
}

// define makes an operation ready for use. A mistake in the table is one of the
// program, and ends it.
func define[In, Out any](o Operation[In, Out]) *Operation[In, Out] {
	op := &o
	r := &op.Route
	r.input, r.answer = reflect.TypeFor[In](), reflect.TypeFor[Out]()
	r.fields = fieldsOf(r.input)
	r.Query = r.fields.query()
	r.secretMember = secretMember(r.input)
	for _, f := range r.fields {
		if f.in == inBody {
			r.BinaryRequest = f.Name
		}
	}
	if want := inPath.FindAllString(r.Path, -1); len(want) != r.fields.count(inPathOf) {
		panic(fmt.Sprintf("operation %s: its input %s has other parameters than its path %s", r.ID, r.input, r.Path))
	}
	if op.Subject != nil {
		r.subject = func(ctx context.Context, c *Caller, in any) any { return op.Subject(ctx, c, in.(In)) }
	}
	r.inBody = func(any) (string, string) { return "", "" }
	if op.Named != nil {
		r.inBody = func(in any) (string, string) { return op.Named(in.(In)) }
		r.keyStore = func(_ context.Context, _ *Caller, in any) (string, error) {
			name, _ := op.Named(in.(In))
			return name, nil
		}
	}
	if op.KeyStore != nil {
		r.keyStore = func(ctx context.Context, c *Caller, in any) (string, error) { return op.KeyStore(ctx, c, in.(In)) }
	}
	r.variant = func(any) string { return r.Words }
	if op.Variant != nil {
		r.variant = func(in any) string { return op.Variant(in.(In)) }
	}
	r.restricts = func(any) bool { return false }
	if r.mayRestrict = op.Restricts != nil; r.mayRestrict {
		r.restricts = func(in any) bool { return op.Restricts(in.(In)) }
	}
	if (op.Confirmed == nil) != (r.ConfirmedIf == "") {
		panic(fmt.Sprintf("operation %s: ConfirmedIf and Confirmed go together", r.ID))
	}
	r.confirmed = func(any, any) bool { return true }
	if op.Confirmed != nil {
		r.confirmed = func(now, in any) bool { return op.Confirmed(now, in.(In)) }
	}
	r.warning = func(*Caller, any, any) string { return "" }
	if op.Warning != nil {
		r.warning = func(c *Caller, now, in any) string { return op.Warning(c, now, in.(In)) }
	}
	if op.Check != nil {
		r.check = func(ctx context.Context, c *Caller, in any) error { return op.Check(ctx, c, in.(In)) }
	}
	r.filed = func(_ context.Context, _ *Caller, _, stored any) (any, error) { return stored, nil }
	if op.Filed != nil {
		r.filed = func(ctx context.Context, c *Caller, in, stored any) (any, error) {
			return op.Filed(ctx, c, in.(In), stored.(In))
		}
	}
	r.run = func(ctx context.Context, c *Caller, in any) (any, error) { return op.Run(ctx, c, in.(In)) }
	r.done = func(out any, effect *Effect) any { return Done[Out]{out.(Out), effect} }
	return op
}

// WordsOf gives the words of the operation for an input.
func (o *Operation[In, Out]) WordsOf(in In) string { return o.variant(in) }

// AllWords gives the operation's words, and those of its variants.
func (r *Route) AllWords() []string { return append([]string{r.Words}, r.Variants...) }

// Do performs the operation for the caller. Secrets in the input are zeroized.
//
// Errors are of the domain, or: fault.Invalid for what is longer than the API takes;
// fault.Forbidden, [fault.Presence] or fault.Locked if the caller may not; [fault.Stale] if the subject is not what the caller saw; a
// [*Pending] if it waits for the approval of a second person now; [ErrDoneBefore] if a request
// with the caller's idempotency key was done before.
func (o *Operation[In, Out]) Do(ctx context.Context, c *Caller, in In) (Done[Out], error) {
	defer wipe(reflect.ValueOf(in))
	p := &performance{Caller: c, route: &o.Route, path: o.fields.of(in), unseen: true}
	done, err := p.request(ctx, func() (any, error) { return in, limited(reflect.ValueOf(in), "") })
	if answered, ok := done.(*Answered); ok && err == nil {
		done, err = answered.now()
	}
	if err != nil {
		return Done[Out]{}, err
	}
	return done.(Done[Out]), nil
}

// Nothing is the input and the answer of operations that have none.
type Nothing struct{}

// makes is the subject of an operation that makes a thing: there is none before,
// and the answer is recorded.
func makes[In any](context.Context, *Caller, In) any { return nil }

// always is for operations that restrict with each input.
func always[In any](In) bool { return true }

// apart is the subject of an operation that is about no thing which can be read:
// its answer is recorded.
func apart[In any](context.Context, *Caller, In) any { return nil }
