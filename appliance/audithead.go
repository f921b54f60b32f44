package appliance

import (
	"context"
	"sync"

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
	// SetAuditHead replaces it, whatever it was.
	SetAuditHead(ctx context.Context, row *AuditHeadRow) error
}

// auditHead keeps the newest head of the audit log in the state, outside of the
// log's folder.
type auditHead struct {
	ground  ground
	log     AuditLog // nil for none
	rows    AuditHeadRows
	service *Service
	keeping sync.Mutex // so that no older head replaces a newer one
}

func (h *auditHead) binding(installation, value string) Binding {
	return Binding{Purpose: "audit-head", Fields: []string{installation, value}}
}

// found begins with the log as it is: where all rows are sealed as they are, as in a new
// installation, after a restore, or when people accept.
func (h *auditHead) found(ctx context.Context, ring Keyring, installation string) error {
	if h.log == nil {
		return nil
	}
	h.keeping.Lock()
	defer h.keeping.Unlock()
	if err := h.log.Prove(""); err != nil {
		return err
	}
	return h.write(ctx, ring, installation)
}

// prove has the audit log proven against the head that was kept, before anything
// serves.
func (h *auditHead) prove(ctx context.Context, ring Keyring, installation string) error {
	if h.log == nil {
		return nil
	}
	h.keeping.Lock()
	defer h.keeping.Unlock()
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
	return h.write(ctx, ring, installation)
}

// KeepAuditHead writes the present head of the audit log into the state. Each
// administrator's change is answered after it, and it is done once an hour; no
// request of KMS waits for it. fault.Locked.
func (l *Lifecycle) KeepAuditHead(ctx context.Context) error { return l.auditHead.keep(ctx) }

func (h *auditHead) keep(ctx context.Context) error {
	if h.log == nil {
		return nil
	}
	h.keeping.Lock()
	defer h.keeping.Unlock()
	v, err := h.service.view()
	if err != nil {
		return err
	}
	in, err := h.service.store.Installation(ctx)
	if err != nil {
		return err
	}
	return h.write(ctx, v.ring, in.ID)
}

func (h *auditHead) write(ctx context.Context, ring Keyring, installation string) error {
	head, err := h.log.Head()
	if err != nil {
		return err
	}
	seal, err := ring.Seal(h.binding(installation, head), nil)
	if err != nil {
		return err
	}
	return h.rows.SetAuditHead(ctx, &AuditHeadRow{Value: head, Seal: seal})
}

// keepLogged is keep for work in the background.
func (h *auditHead) keepLogged(ctx context.Context) {
	if err := h.keep(ctx); err != nil && fault.CodeOf(err) != fault.Locked {
		h.ground.log.Error("the head of the audit log could not be kept in the state", "error", err)
	}
}
