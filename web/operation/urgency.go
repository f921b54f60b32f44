package operation

import "sync"

// Urgency says what a change waits for. Changes of a kind are performed one after
// another, so that one which was decided on a stale page is refused. A read waits
// for none.
type Urgency string

const (
	// Ordinary changes wait for each other. One of them may wait for an HSM.
	Ordinary Urgency = "ordinary"
	// Urgent changes take something out of service or stop somebody: block, disable,
	// revoke. They wait for no ordinary change, and their functions for no HSM.
	Urgent Urgency = "urgent"
	// Exclusive changes wait for ordinary and for urgent ones, which wait for them: they
	// change a rule that other operations keep to. Their functions wait for no HSM.
	Exclusive Urgency = "exclusive"
	// Independent changes wait for nothing, and nothing waits for them: they take long,
	// perform another operation, or change nothing that others read.
	Independent Urgency = "independent"
)

// turns has changes performed one after another.
type turns struct{ ordinary, urgent sync.Mutex }

// take waits until a change may be performed; the caller calls done after it.
func (t *turns) take(u Urgency) (done func()) {
	switch u {
	case Independent:
		return func() {}
	case Urgent:
		t.urgent.Lock()
		return t.urgent.Unlock
	}
	t.ordinary.Lock()
	if u != Exclusive {
		return t.ordinary.Unlock
	}
	t.urgent.Lock() // second, so that urgent changes do not wait while this one waits
	return func() { t.urgent.Unlock(); t.ordinary.Unlock() }
}
