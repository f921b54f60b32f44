package recorder

import (
	"context"

	"holdfast/appliance"
	"holdfast/appliance/audit"
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

// HasRequests says whether the log has a request of KMS: then there was an
// installation. fault.Locked before the log is open.
func (r *Recorder) HasRequests(ctx context.Context) (bool, error) {
	found, _, err := r.Search(ctx, audit.Query{Kind: audit.KindXKS, Limit: 1})
	return len(found) > 0, err
}
