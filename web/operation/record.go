package operation

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
)

// refused records that a caller who is known may not do what they asked for.
func (p *performance) refused(ctx context.Context, err error) {
	if auditErr := p.write(ctx, p.record(audit.Denied, err)); auditErr != nil {
		p.Log.Error("a refusal could not be recorded", "operation", p.route.Operation(), "error", auditErr)
	}
}

// unusable records that a request to change something could not be read.
func (p *performance) unusable(ctx context.Context, err error) {
	if !p.route.Mutates() {
		return
	}
	if auditErr := p.write(ctx, p.record(audit.Failed, err)); auditErr != nil {
		p.Log.Error("a request that could not be read could not be recorded", "operation", p.route.Operation(), "error", auditErr)
	}
}

// changed is the record of a change that was tried.
func (p *performance) changed(before, after any, err error) *audit.Record {
	rec := p.record(audit.Allowed, nil)
	rec.Before, rec.After = encoded(before), encoded(after)
	if err != nil {
		rec.Result, rec.Error, rec.After = audit.Failed, string(fault.CodeOf(err)), nil
	}
	return rec
}

func (p *performance) record(result audit.Result, err error) *audit.Record {
	return &audit.Record{Kind: audit.KindAdmin, Operation: p.route.Operation(), Result: result, Error: string(fault.CodeOf(err)),
		Actor: p.Who.Name, Detail: p.detail(), Remote: p.Remote, KeyStore: p.path("keystore"), Key: p.path("key")}
}

// detail says by which proof the actor came, and who else approved.
func (c *Caller) detail() string {
	var parts []string
	switch {
	case c.Who.Session != "":
		parts = append(parts, "session "+c.Who.Session)
	case c.Who.Token != "":
		parts = append(parts, "token "+c.Who.Token)
	}
	if c.approvedBy != "" {
		parts = append(parts, "approved by "+c.approvedBy)
	}
	return strings.Join(parts, ", ")
}

// reserved says whether the operation may use the reserve of the audit log: it takes
// something out of service, saves what is there, or is needed before one that does.
func (p *performance) reserved() bool {
	return p.route.Urgency == Urgent || p.route.Recorded || p.route.WhileLocked
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
	if !p.reserved() {
		return p.Performer.write(ctx, rec)
	}
	p.tell(rec)
	return p.Audit.RecordUrgent(context.WithoutCancel(ctx), rec)
}

// keepHead has the head of the audit log kept in the state. That it fails does not
// undo what was done: the log says so, and the next minute tries again.
func (p *performance) keepHead(ctx context.Context) {
	if p.Options.Recorded == nil {
		return
	}
	if err := p.Options.Recorded(context.WithoutCancel(ctx)); err != nil && fault.CodeOf(err) != fault.Locked {
		p.Log.Error("the head of the audit log could not be kept in the state; it is tried again in a minute", "error", err)
	}
}

func (p *Performer) tell(rec *audit.Record) {
	p.Log.Info("admin", "operation", rec.Operation, "actor", rec.Actor, "key_store", rec.KeyStore, "key", rec.Key, "result", string(rec.Result), "error", rec.Error)
}

func (p *Performer) write(ctx context.Context, rec *audit.Record) error {
	p.tell(rec)
	return p.Audit.Record(context.WithoutCancel(ctx), rec)
}

// Event records what happens to users outside of operations: that they sign in, or
// fail to. Where the log is not open yet, as while the appliance is locked from
// its start on, the program's log alone has it: nothing can be changed then.
func (p *Performer) Event(ctx context.Context, operation, actor, remote string, err error) error {
	rec := &audit.Record{Kind: audit.KindAdmin, Operation: operation, Result: audit.Allowed, Actor: actor, Remote: remote}
	if err != nil {
		rec.Result, rec.Error = audit.Denied, string(fault.CodeOf(err))
	}
	if err == nil { // who has signed in may block, so they may use the reserve; strangers may not
		p.tell(rec)
		err = p.Audit.RecordUrgent(context.WithoutCancel(ctx), rec)
	} else {
		err = p.write(ctx, rec)
	}
	if fault.CodeOf(err) == fault.Locked {
		return nil
	}
	return err
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
