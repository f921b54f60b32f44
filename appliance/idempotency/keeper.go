package idempotency

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"sync"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Seals gives the secret that all unlocked nodes of an installation share; [*appliance.Seals] is
// one.
type Seals interface {
	// MACShared gives 32 bytes that every unlocked node has for b. fault.Locked.
	MACShared(b appliance.Binding) ([]byte, error)
	// Held gives why the state is held; nil if it is not.
	Held() error
}

// Keeper keeps answers. An appliance has one. All methods may be called at once.
type Keeper struct {
	store   Store
	seals   Seals
	now     func() time.Time
	log     *slog.Logger
	process [sha256.Size]byte // the secret of this process, while there is no shared one

	mu sync.Mutex
	// runs are under way in this process, and held what it alone remembers; both by the ID that
	// the process gives.
	runs map[string]bool
	held map[string]*Row
}

// NewKeeper makes a keeper. Store and seals are nil if the process alone remembers.
func NewKeeper(store Store, seals Seals, now func() time.Time, log *slog.Logger) *Keeper {
	k := &Keeper{store: store, seals: seals, now: now, log: log, runs: map[string]bool{}, held: map[string]*Row{}}
	_, _ = rand.Read(k.process[:]) // never fails (crypto/rand)
	return k
}

// Asked is a request with a key.
type Asked struct {
	Owner, Key string
	// Node is where it is performed; empty for an appliance on its own.
	Node string
	// What is all that is asked but for the body, which Body is.
	What appliance.Binding
	Body []byte
	// Here says that this process alone remembers it: what it does replaces the state.
	Here bool
	// Ahead says that what it changes is not in the state, so that no transaction of the change
	// can have the mark: the row is written before.
	Ahead bool
	// Resumes says that it may be done again after a part was done, as what is there is not made
	// again.
	Resumes bool
}

// Run is a request that is under way, or was answered.
type Run struct {
	// Kept is the answer that was given; nil if the request is to be performed now.
	Kept *Answer
	// Since is when it was begun.
	Since time.Time

	keeper  *Keeper
	here    bool // the process alone remembers
	ahead   bool // the row was written before the change
	resumes bool // it may be done again after a part was done
	// own and shared are the request for this process alone, and for all nodes; shared is nil
	// without a secret of all nodes.
	own, shared *entry
	mark        *Mark
}

// entry is the row of a request with the keys for it.
type entry struct {
	row  *Row
	keys keys
}

// entry gives what a request is under a secret.
func (r *Run) entry(secret []byte, a Asked, run string) (*entry, error) {
	k, id, err := derive(secret, a.Owner, a.Key)
	if err != nil {
		return nil, err
	}
	return &entry{&Row{ID: id, Owner: a.Owner, Request: k.ofRequest(a.What, a.Body), Run: run, Node: a.Node, Begun: r.Since, Expires: r.Since.Add(Lifetime)}, k}, nil
}

// Begin begins a request, or gives what it was answered. Errors: fault.KeyReused if another
// request had the key; fault.AnswerPending while it is under way; fault.AnswerLost if it was
// begun or done, and what it was answered is not known; fault.KeysExhausted if too many answers
// are kept for the principal.
//
// Call [Run.End] in any case, once the request is over.
func (k *Keeper) Begin(ctx context.Context, a Asked) (*Run, error) {
	now := k.now().UTC().Truncate(time.Millisecond)
	r := &Run{keeper: k, here: a.Here || k.store == nil || k.seals == nil || k.seals.Held() != nil, ahead: a.Ahead, resumes: a.Resumes, Since: now}
	name := make([]byte, 16)
	_, _ = rand.Read(name) // never fails (crypto/rand)
	var err error
	if r.own, err = r.entry(k.process[:], a, hex.EncodeToString(name)); err != nil {
		return nil, err
	}
	if !k.start(r, now) {
		return nil, errRunning()
	}
	if err := k.find(ctx, r, a); err != nil {
		r.End()
		return nil, err
	}
	return r, nil
}

// start says that the request is under way in this process, unless it is.
func (k *Keeper) start(r *Run, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, row := range k.held {
		if !now.Before(row.Expires) {
			delete(k.held, id)
		}
	}
	if k.runs[r.own.row.ID] {
		return false
	}
	k.runs[r.own.row.ID] = true
	return true
}

// find looks for what was kept for the request, and prepares it if there is nothing.
func (k *Keeper) find(ctx context.Context, r *Run, a Asked) error {
	k.mu.Lock()
	held := k.held[r.own.row.ID]
	k.mu.Unlock()
	if held != nil && held.Answer != nil {
		return r.take(&entry{held, r.own.keys}, r.own)
	}
	if err := k.share(r, a); err != nil {
		return err
	}
	if err := k.resume(ctx, r, held); err != nil {
		return err
	}
	if r.here {
		return k.room(ctx, r)
	}
	if found, err := k.look(ctx, r); found || err != nil {
		return err
	}
	if err := k.room(ctx, r); err != nil || !r.ahead {
		return err
	}
	err := k.store.CreateAnswer(ctx, r.shared.row)
	if fault.CodeOf(err) == fault.Exists {
		if found, err := k.look(ctx, r); found || err != nil {
			return err
		}
		return errRunning() // it was there, and is over
	}
	r.here = err != nil // what it does is this node's own, and must be possible while the state takes no change
	return nil
}

// resume removes the mark of a run that was stopped here, which left could not.
func (k *Keeper) resume(ctx context.Context, r *Run, held *Row) error {
	if held == nil || r.shared == nil || !bytes.Equal(held.Request, r.own.row.Request) {
		return nil
	}
	if err := k.store.DeleteAnswer(ctx, r.shared.row.ID, held.Run); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.held, held.ID)
	return nil
}

// binding names the secret of all nodes.
var binding = appliance.Binding{Purpose: "idempotency"}

// share makes the entry of all nodes. While there is no secret of all nodes, the process alone
// remembers.
func (k *Keeper) share(r *Run, a Asked) error {
	if r.here {
		return nil
	}
	secret, err := k.seals.MACShared(binding)
	if fault.CodeOf(err) == fault.Locked {
		r.here = true
		return nil
	}
	if err != nil {
		return err
	}
	defer clear(secret)
	if r.shared, err = r.entry(secret, a, r.own.row.Run); err == nil {
		r.mark = &Mark{Row: r.shared.row}
	}
	return err
}

// look reads the row of the request, and says whether there is one.
func (k *Keeper) look(ctx context.Context, r *Run) (bool, error) {
	row, err := k.store.Answer(ctx, r.shared.row.ID)
	switch {
	case fault.CodeOf(err) == fault.NotFound:
		return false, nil
	case err != nil:
		return false, err
	case !k.now().Before(row.Expires) || row.Run == r.shared.row.Run:
		return false, nil
	}
	return true, r.take(&entry{row, r.shared.keys}, r.shared)
}

// take has the request answered as an entry says that was there.
func (r *Run) take(there, asked *entry) (err error) {
	row := there.row
	switch {
	case !bytes.Equal(row.Request, asked.row.Request):
		return fault.Errorf(fault.KeyReused, "another request was sent with this idempotency key at %s: use a new key for each request, and the same one only to send the same again", row.Begun.Format(time.RFC3339))
	case row.Answer == nil && row.Node != asked.row.Node && r.keeper.now().Before(row.Begun.Add(longest)):
		return errRunning()
	case row.Answer == nil:
		return r.lost(row, "the appliance stopped, or failed, before the answer was kept")
	}
	a, err := there.keys.open(row)
	if err != nil {
		return err
	}
	switch {
	case a.TooLong:
		return r.lost(row, "it was too long to be kept")
	case a.Code == fault.AnswerLost:
		return r.lost(row, a.Message)
	}
	r.Kept, r.Since = a, row.Begun
	return nil
}

// lost is the error of a request whose answer nobody has. Where the row was written before the
// change, nobody knows whether that was made; else a change has left it, which may be a part of
// what was asked for.
func (r *Run) lost(row *Row, why string) error {
	what := "it has changed something, which may be a part of what it was to do"
	if r.ahead {
		what = "it may have done all that it was to do, a part, or nothing"
	}
	return fault.Errorf(fault.AnswerLost, "this request was begun at %s, and its answer is lost: %s; %s. Look at the thing, and at the audit log of then, and ask only for what is missing, with a new idempotency key: the whole request with a new key would be done a second time", row.Begun.Format(time.RFC3339), why, what)
}

// room says whether another answer may be kept for the principal.
func (k *Keeper) room(ctx context.Context, r *Run) error {
	var t Total
	owner := r.own.row.Owner
	if r.here {
		k.mu.Lock()
		for _, row := range k.held {
			if row.Owner == owner {
				t.Answers, t.Bytes = t.Answers+1, t.Bytes+int64(len(row.Answer))
			}
		}
		k.mu.Unlock()
	} else {
		var err error
		if t, err = k.store.AnswersOf(ctx, owner, r.Since); err != nil {
			return err
		}
	}
	if t.Answers >= MaxAnswers || t.Bytes >= MaxBytes {
		return fault.Errorf(fault.KeysExhausted, "you have used %d idempotency keys in 24 hours, and %d bytes of answers are kept for you; at most %d keys or %d bytes are: send it without the header Idempotency-Key, or later", t.Answers, t.Bytes, MaxAnswers, MaxBytes)
	}
	return nil
}

// Marked gives a context whose first change leaves the mark that the request was done.
func (r *Run) Marked(ctx context.Context) context.Context {
	if r.here {
		return ctx
	}
	return Marked(ctx, r.mark)
}

// Changed says whether a change has left the mark.
func (r *Run) Changed() bool { return r.mark != nil && r.mark.made.Load() }

// Within bounds the time that a request goes on, so that another node calls none lost that is
// still under way. What this process alone remembers has no bound.
func (r *Run) Within(ctx context.Context) (context.Context, context.CancelFunc) {
	if r.here {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, mostTime)
}

// Elsewhere says, of a request that has changed nothing, whether another run has done it or
// works on it: then what was found here does not count, and is no event of its own.
func (r *Run) Elsewhere(ctx context.Context) bool {
	if r.here || r.ahead || r.Changed() {
		return false
	}
	row, err := r.keeper.store.Answer(context.WithoutCancel(ctx), r.shared.row.ID)
	return err == nil && row.Run != r.shared.row.Run && r.keeper.now().Before(row.Expires)
}

// Settled gives what became of a request that was refused here: it may be that another node was
// faster with it, and its answer counts. If nothing was changed, nothing is kept. If something
// was, only a refusal is kept that would come again in any case: after another one the request is
// to be done again ([Asked.Resumes]), or its answer is lost.
func (r *Run) Settled(ctx context.Context, refusal error) (*Answer, error) {
	ctx = context.WithoutCancel(ctx)
	switch {
	case r.Changed() && r.resumes:
		r.Left(ctx)
		return nil, refusal
	case r.Changed():
		return nil, cmp.Or(r.keep(ctx, afterChange(refusal)), refusal)
	case r.here:
		return nil, refusal
	case r.ahead && fault.ClassOf(refusal) == fault.ClassInternal: // it may have been done by then
		return nil, cmp.Or(r.keep(ctx, afterChange(refusal)), refusal)
	case r.ahead:
		if err := r.keeper.store.DeleteAnswer(ctx, r.shared.row.ID, r.shared.row.Run); err != nil {
			r.keeper.log.Warn("a request that was refused is still marked as done", "error", err)
		}
		return nil, refusal
	}
	found, err := r.keeper.look(ctx, r)
	switch {
	case err != nil:
		return nil, err
	case found:
		return r.Kept, nil
	case r.mark.overtaken.Load():
		return nil, errRunning()
	}
	return nil, refusal
}

// afterChange gives what is kept of a refusal that came when something had been changed.
func afterChange(refusal error) *Answer {
	f, ok := errors.AsType[*fault.Fault](refusal)
	switch {
	case !ok || f.Class() == fault.ClassInternal: // the log has the cause, under a reference
		return &Answer{Code: fault.AnswerLost, Message: "the appliance failed"}
	case f.Class() != fault.Refused:
		return &Answer{Code: fault.AnswerLost, Message: "it was stopped, " + string(f.Code) + ": " + f.Message}
	}
	return &Answer{Code: f.Code, Message: f.Message}
}

// Left keeps nothing of a request that was stopped and can be done again ([Asked.Resumes]), so
// that it is, when it is sent again with the same key.
func (r *Run) Left(ctx context.Context) {
	if r.here {
		return
	}
	err := r.keeper.store.DeleteAnswer(context.WithoutCancel(ctx), r.shared.row.ID, r.shared.row.Run)
	if err == nil {
		return
	}
	r.keeper.log.Warn("a request that was stopped is still marked as done; it is done again when this node is sent it again", "error", err)
	r.keeper.mu.Lock()
	defer r.keeper.mu.Unlock()
	r.keeper.held[r.own.row.ID] = r.own.row
}

// Finish keeps the answer. It gives another one if another node was faster.
func (r *Run) Finish(ctx context.Context, a *Answer) (*Answer, error) {
	if err := r.keep(context.WithoutCancel(ctx), a); err != nil {
		return nil, err
	}
	if r.Kept != nil {
		return r.Kept, nil
	}
	return a, nil
}

// keep keeps the answer. It takes another one if another node was faster.
func (r *Run) keep(ctx context.Context, a *Answer) error {
	if !r.here {
		row, err := r.shared.with(a)
		if err != nil {
			return err
		}
		err = r.keeper.store.FinishAnswer(ctx, row)
		switch fault.CodeOf(err) {
		case "":
			return nil
		case fault.Exists: // another node did it, and nothing was left to do here
			if found, err := r.keeper.look(ctx, r); found || err != nil {
				return err
			}
			return errRunning()
		}
		r.keeper.log.Warn("an answer is kept by this process alone, as the state takes no change", "error", err)
	}
	row, err := r.own.with(a)
	if err != nil {
		return err
	}
	r.keeper.mu.Lock()
	defer r.keeper.mu.Unlock()
	r.keeper.held[row.ID] = row
	return nil
}

// with gives the row with the answer.
func (e *entry) with(a *Answer) (*Row, error) {
	row := *e.row
	var err error
	row.Answer, err = e.keys.seal(&row, a)
	return &row, err
}

// End says that the request is over.
func (r *Run) End() {
	r.keeper.mu.Lock()
	defer r.keeper.mu.Unlock()
	delete(r.keeper.runs, r.own.row.ID)
}

// Keeps says whether all nodes remember what was done, and do so after a restart.
func (k *Keeper) Keeps() bool {
	if k.store == nil || k.seals == nil || k.seals.Held() != nil || !k.store.KeepsAnswers() {
		return false
	}
	secret, err := k.seals.MACShared(binding)
	clear(secret)
	return err == nil
}

// Forget removes what has expired from the state. It is called from time to time; rows that have
// expired count no more before that.
func (k *Keeper) Forget(ctx context.Context) error {
	if k.store == nil {
		return nil
	}
	_, err := k.store.ForgetAnswers(ctx, k.now())
	return err
}
