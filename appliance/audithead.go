package appliance

import (
	"context"
	"sync/atomic"

	"holdfast/appliance/fault"
)

// AuditLog is what the appliance needs of the audit log to find that it was
// rewritten from its beginning, shortened or put back.
type AuditLog interface {
	// Head gives the log's head: how many records it has, and the root of their tree.
	Head() (string, error)
	// Prove says whether the log contains that head: fault.AuditRewritten. An empty one is
	// for a log of which none was kept. The log signs nothing before it is proven.
	Prove(head string) error
}

// AuditHeadRow is the newest head of the audit log, as it is stored.
type AuditHeadRow struct {
	// Value is what [AuditLog] gives.
	Value string
	Seal  []byte
}

// AuditHeadRows keeps the newest head of the audit log of this machine.
type AuditHeadRows interface {
	// AuditHead gives the newest head; fault.NotFound.
	AuditHead(ctx context.Context) (*AuditHeadRow, error)
	// KeepAuditHead replaces it by what [StateOptions].AuditHead gives. Anchor says that the
	// anchor is raised for it; it is not otherwise, so that it costs nothing to do that
	// often. fault.Locked while the state is not open.
	KeepAuditHead(ctx context.Context, anchor bool) error
}

// auditHead keeps the newest head of the audit log in the state, outside of the
// log's folder.
type auditHead struct {
	ground  ground
	log     AuditLog // nil for none
	rows    AuditHeadRows
	service *Service
	// proven says that the log contains the head that was kept of it. Before that, nothing
	// may replace this head.
	proven atomic.Bool
}

func (h *auditHead) binding(installation, value string) Binding {
	return Binding{Purpose: "audit-head", Fields: []string{installation, value}}
}

// found begins with the log as it is: where all rows are sealed as they are, as in a new
// installation, after a restore, or when people accept.
func (h *auditHead) found() error {
	if h.log == nil {
		return nil
	}
	if err := h.log.Prove(""); err != nil {
		return err
	}
	h.proven.Store(true)
	return nil
}

// prove has the audit log proven against the head that was kept, before anything
// serves.
func (h *auditHead) prove(ctx context.Context, ring Keyring, installation string) error {
	if h.log == nil {
		return nil
	}
	row, err := h.rows.AuditHead(ctx)
	if fault.CodeOf(err) == fault.NotFound {
		return fault.Errorf(fault.AuditRewritten, "the database lacks the head of the audit log, which every unlock writes: its row was removed by hand; restore the last good backup to a new state volume")
	}
	if err != nil {
		return err
	}
	if err := ring.Verify(h.binding(installation, row.Value), row.Seal); err != nil {
		return fault.Wrapf(fault.AuditRewritten, err, "the head of the audit log in the database does not match its seal: it was changed by hand; restore the last good backup to a new state volume")
	}
	if err := h.log.Prove(row.Value); err != nil {
		return err
	}
	h.proven.Store(true)
	return h.rows.KeepAuditHead(ctx, false)
}

// written gives the function that gives the row for a transaction; nil without a log.
func (h *auditHead) written(ring Keyring, installation string) func() (*AuditHeadRow, error) {
	if h.log == nil {
		return nil
	}
	return func() (*AuditHeadRow, error) {
		if !h.proven.Load() {
			return nil, nil
		}
		return h.row(ring, installation)
	}
}

// KeepAuditHead writes the present head of the audit log into the state, without raising
// the anchor: the transaction of each change that raises it has the head of then. It is
// called when a change is on record, before it is answered, and once a minute. No request
// of KMS waits for it. fault.Locked.
func (l *Lifecycle) KeepAuditHead(ctx context.Context) error { return l.auditHead.keep(ctx, false) }

func (h *auditHead) keep(ctx context.Context, anchor bool) error {
	if h.log == nil {
		return nil
	}
	if _, err := h.service.view(); err != nil {
		return err
	}
	return h.rows.KeepAuditHead(ctx, anchor)
}

func (h *auditHead) row(ring Keyring, installation string) (*AuditHeadRow, error) {
	head, err := h.log.Head()
	if err != nil {
		return nil, err
	}
	seal, err := ring.Seal(h.binding(installation, head), nil)
	if err != nil {
		return nil, err
	}
	return &AuditHeadRow{Value: head, Seal: seal}, nil
}

// keepLogged is keep for work in the background.
func (h *auditHead) keepLogged(ctx context.Context, anchor bool) {
	if err := h.keep(ctx, anchor); err != nil && fault.CodeOf(err) != fault.Locked {
		h.ground.log.Error("the head of the audit log could not be kept in the state", "error", err)
	}
}
