// Package freshness has the rules by which a state is held against its anchors. They are
// pure, so that the appliance and the models in this package's tests, which try all orders
// of events, run the same ones.
//
// One anchor is a count outside of the database that only rises. Other anchors know the
// newest head of the state that they were told. The state may be ahead of its anchors,
// never behind one, and no anchor is told first.
//
// The rules of the count rest on one invariant. Whatever copy of the database somebody keeps of a
// change that was not anchored, its count is at most one above the anchor. Each opening of
// the state writes a manifest with that count and raises the anchor to it, before there is
// a change; so no such copy is current any more once a change was anchored.
package freshness

// Stated is what a state says of its anchor.
type Stated struct {
	Anchor string // its name; empty if it has none
	Count  uint64
}

// Reading is what the anchor itself says.
type Reading struct {
	Name  string
	Count uint64
	Made  bool // it was made, and is there
}

// Verdict is what a state is, by its anchor.
type Verdict int

// What a state can be. It is served if it is Current or First.
const (
	// Current is a state as its anchor says, or ahead by one: of a change that was not
	// anchored.
	Current Verdict = iota + 1
	// First is one that has no anchor yet, where none was made: it gets one.
	First
	// Older is one that the anchor has gone past.
	Older
	// Unnamed is one that names no anchor, though there is one.
	Unnamed
	// Foreign is one that names another anchor.
	Foreign
	// Gone is one whose anchor is not there.
	Gone
	// Beyond is one that is too far ahead to be of this anchor.
	Beyond
	// Branched is one whose past does not have the head that the anchor was told.
	Branched
)

// Decide holds a state against its anchor.
func Decide(s Stated, r Reading) Verdict {
	switch {
	case s.Anchor == "" && !r.Made:
		return First
	case s.Anchor == "":
		return Unnamed
	case s.Anchor != r.Name:
		return Foreign
	case !r.Made:
		return Gone
	case s.Count < r.Count:
		return Older
	case s.Count > r.Count+1:
		return Beyond
	}
	return Current
}

// Begin says whether a state gets its first manifest: of rows that have none, or that
// people accept as they are. An anchor that is there already is of another state.
func Begin(r Reading, accepted bool) Verdict {
	switch {
	case !r.Made:
		return First
	case accepted:
		return Current
	}
	return Older
}

// Head names a state: its number, and the digest of a chain in which each state names the
// one before it. The zero value is that of no state.
type Head struct {
	Sequence uint64
	Digest   string
}

// DecideHead holds a state against the newest head that an anchor was told. Past says
// whether that head is the state's own or in its past: an ancestor by the chain of digests,
// and not a smaller number alone.
func DecideHead(own, told Head, past bool) Verdict {
	switch {
	case told == Head{}:
		return First
	case own == Head{}:
		return Unnamed
	case told.Sequence > own.Sequence:
		return Older
	case !past:
		return Branched
	}
	return Current
}

// Joins says whether the next head comes after the one that an anchor was told, where people
// accept a state as it is, so that the anchor finds it in its past. Its number is then above
// both.
func Joins(own, told Head, past bool) bool { return DecideHead(own, told, past) > First }

// Ledger gives the counts of the changes while a state is open. The zero value knows
// nothing.
type Ledger struct {
	known   uint64 // what the anchor says
	durable uint64 // the count of the last change that is durable
}

// Know takes what the anchor says.
func (l *Ledger) Know(count uint64) { l.known = count }

// Known gives that.
func (l *Ledger) Known() uint64 { return l.known }

// Missing says to which count the anchor is to be raised, if it is behind the state.
func (l *Ledger) Missing() (to uint64, behind bool) { return l.durable, l.durable > l.known }

// Next gives the count of the next change. While the anchor is behind, changes share it.
func (l *Ledger) Next() uint64 { return l.known + 1 }

// Committed takes note of a change that is durable. Shared says that it has the count of
// one before it, which the anchor cannot tell from it: it is not raised for this one.
func (l *Ledger) Committed(count uint64) (shared bool) {
	shared = count == l.durable
	l.durable = count
	return shared
}
