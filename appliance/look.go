package appliance

import (
	"context"
	"sync/atomic"
)

// Look is when somebody has looked at what they are about to change: at which change of the
// fleet's log. What they decide by that counts only as long as no node has made another change.
type Look struct {
	number uint64
	state  atomic.Int32
}

// The states of a look.
const (
	lookStands  = iota // nothing was made by it yet
	lookUsed           // a change was: those that follow belong to it
	lookRefused        // another change came first
)

// Holds says whether a change may be made by it as the next one after that number. If not, the
// change must be refused with fault.Changed.
func (l *Look) Holds(after uint64) bool {
	if l.state.Load() == lookUsed || l.number == after {
		return true
	}
	l.state.Store(lookRefused)
	return false
}

// Used says that a change was made by it.
func (l *Look) Used() { l.state.Store(lookUsed) }

// Refused says that another change came first, and nothing was made by it.
func (l *Look) Refused() bool { return l.state.Load() == lookRefused }

// Unused says that nothing was made by it, and nothing was refused.
func (l *Look) Unused() bool { return l.state.Load() == lookStands }

// Since says whether the log has had a change between the two.
func (l *Look) Since(earlier *Look) bool { return l.number != earlier.number }

type lookKey struct{}

// Looked gives a context in which the store makes the first change only if the look holds.
func Looked(ctx context.Context, l *Look) context.Context {
	return context.WithValue(ctx, lookKey{}, l)
}

// LookOf gives the look by which changes in the context are made; nil for none.
func LookOf(ctx context.Context) *Look {
	l, _ := ctx.Value(lookKey{}).(*Look)
	return l
}

// MadeHere says that something was changed which is in no log: it is this node's own.
func MadeHere(ctx context.Context) {
	if l := LookOf(ctx); l != nil {
		l.Used()
	}
}

// Look begins one: what is read afterwards, from rows or from memory, is at least as new. It waits
// until memory has what the rows have. It is nil for a single appliance, whose changes come one
// after the other.
func (l *Lifecycle) Look(ctx context.Context) *Look {
	if l.replication == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	written := l.store.Written()
	await(ctx, func() bool { return l.store.Position().Number >= written })
	return &Look{number: l.store.Position().Number} // if memory lags still, the change is refused
}
