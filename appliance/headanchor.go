package appliance

import (
	"context"
	"slices"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/freshness"
)

// HeadAnchor keeps outside of the database the newest head of the state that it was told:
// the audit log, the broker, and later the fleet's other nodes or an object in the HSM. The
// state may be ahead of it, never behind it, and it is never told first.
type HeadAnchor interface {
	// Name says what it is, such as "audit log".
	Name() string
	// Seen gives the newest head that it knows; fault.NotFound if it was told none, and
	// fault.AnchorAway if it may be away and is: the state is served without it. Any other
	// error keeps the state from being served.
	Seen(ctx context.Context) (SeenHead, error)
	// Tell tells it a head that is durable. It must not wait: what it cannot keep now, it
	// keeps when it can.
	Tell(h Head)
}

// SeenHead is the newest head that an anchor knows, and since when.
type SeenHead struct {
	Head  Head
	Since time.Time
}

// bare gives what decides of a head.
func (h Head) bare() freshness.Head { return freshness.Head{Sequence: h.Sequence, Digest: h.Digest} }

// headAnchors are those of an appliance.
type headAnchors []HeadAnchor

// tell tells all of them.
func (a headAnchors) tell(h Head) {
	for _, anchor := range a {
		anchor.Tell(h)
	}
}

// fresh says whether a state is as new as all of them.
func (a headAnchors) fresh(ctx context.Context, own Head, past Past) error {
	for _, anchor := range a {
		s := relationTo(ctx, anchor, own, past)
		if s.err != nil && fault.CodeOf(s.err) != fault.AnchorAway {
			return s.err
		}
	}
	return nil
}

// after gives the heads that rows come after that are sealed as they are: all that the
// anchors know, if one of them is not in their past; else none. Unless people accept that,
// or a restore does, it is an error.
func (a headAnchors) after(ctx context.Context, own Head, past Past, accepted bool) ([]Head, error) {
	var known []Head
	needed := false
	for _, anchor := range a {
		s := relationTo(ctx, anchor, own, past)
		switch fault.CodeOf(s.err) {
		case "":
		case fault.AnchorAway:
			continue
		case fault.StateRolledBack:
			if !accepted {
				return nil, s.err
			}
		default:
			return nil, s.err
		}
		needed = needed || freshness.Joins(own.bare(), s.seen.Head.bare(), s.err == nil)
		if s.seen.Head.Sequence > 0 && !slices.ContainsFunc(known, func(h Head) bool { return h.Digest == s.seen.Head.Digest }) {
			known = append(known, s.seen.Head)
		}
	}
	if !needed {
		return nil, nil
	}
	return known, nil
}

// headRelation is how a state stands to one anchor.
type headRelation struct {
	seen SeenHead // zero if it was told none
	err  error    // why the anchor does not agree
}

// relationTo holds a state against one anchor. The error is fault.StateRolledBack if the state
// is older than it or of another branch.
func relationTo(ctx context.Context, anchor HeadAnchor, own Head, past Past) (s headRelation) {
	s.seen, s.err = anchor.Seen(ctx)
	if fault.CodeOf(s.err) == fault.NotFound {
		return headRelation{}
	}
	if s.err != nil {
		return s
	}
	seen, is := s.seen.Head, false
	if own != (Head{}) {
		if is, s.err = past(seen); s.err != nil {
			return s
		}
	}
	switch freshness.DecideHead(own.bare(), seen.bare(), is) {
	case freshness.Older:
		s.err = fault.Errorf(fault.StateRolledBack, "the database has the state number %d of %s, and the %s has known the number %d of %s since %s: the changes between them are missing, so an earlier copy of the database was put back",
			own.Sequence, own.At.Format(time.RFC3339), anchor.Name(), seen.Sequence, seen.At.Format(time.RFC3339), s.seen.Since.Format(time.RFC3339))
	case freshness.Branched:
		s.err = fault.Errorf(fault.StateRolledBack, "the database has the state number %d of %s, and in its past is not the number %d of %s, which the %s has known since %s: an earlier copy of the database was put back, and changed",
			own.Sequence, own.At.Format(time.RFC3339), seen.Sequence, seen.At.Format(time.RFC3339), anchor.Name(), s.seen.Since.Format(time.RFC3339))
	case freshness.Unnamed:
		s.err = fault.Errorf(fault.StateRolledBack, "the %s has known the state number %d of %s since %s, and the database has none: it is empty or of before there were manifests",
			anchor.Name(), seen.Sequence, seen.At.Format(time.RFC3339), s.seen.Since.Format(time.RFC3339))
	}
	return s
}
