package recorder

import (
	"context"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
)

var _ appliance.AuditLog = (*Recorder)(nil)

// Head implements [appliance.AuditLog].
func (r *Recorder) Head() (string, error) {
	l := r.current()
	if l == nil {
		return "", errNotOpen
	}
	return l.Head()
}

// Prove implements [appliance.AuditLog].
func (r *Recorder) Prove(head string) error {
	l := r.current()
	if l == nil {
		return errNotOpen
	}
	return l.Prove(head)
}

var _ appliance.HeadAnchor = (*Recorder)(nil)

// Name implements [appliance.HeadAnchor].
func (r *Recorder) Name() string { return "audit log" }

// Seen implements [appliance.HeadAnchor]: the head that the newest signed checkpoint names.
func (r *Recorder) Seen(context.Context) (appliance.SeenHead, error) {
	l := r.current()
	if l == nil {
		return appliance.SeenHead{}, errNotOpen
	}
	h, since := l.Told()
	if h == (audit.StateHead{}) {
		return appliance.SeenHead{}, fault.Errorf(fault.NotFound, "no checkpoint of the audit log names a state")
	}
	return appliance.SeenHead{Head: appliance.Head{Sequence: h.Sequence, Digest: h.Digest, At: h.At}, Since: since}, nil
}

// Tell implements [appliance.HeadAnchor]: the next checkpoint names the head.
func (r *Recorder) Tell(h appliance.Head) {
	if l := r.current(); l != nil {
		l.Tell(audit.StateHead{Sequence: h.Sequence, Digest: h.Digest, At: h.At})
	}
}

// HasRequests says whether the log has a request of KMS: then there was an
// installation. fault.Locked before the log is open.
func (r *Recorder) HasRequests(ctx context.Context) (bool, error) {
	found, _, err := r.Search(ctx, audit.Query{Kind: audit.KindXKS, Limit: 1})
	return len(found) > 0, err
}
