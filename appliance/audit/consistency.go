package audit

import (
	"golang.org/x/mod/sumdb/tlog"

	"holdfast/appliance/fault"
)

// CheckConsistency says whether a log that has the head to began as one that had the head
// from, by a proof of it (RFC 6962 section 2.1.2): fault.AuditInconsistent.
// auditlog.Log.ProveConsistency makes such a proof.
func CheckConsistency(proof []tlog.Hash, from, to Head) error {
	switch {
	case to.Size < from.Size:
		return fault.Errorf(fault.AuditInconsistent, "the log has %d records, and had %d before", to.Size, from.Size)
	case from.Size == 0 || from.Size == to.Size:
		// Each log begins with no record, and has one root per size: there is nothing to prove.
		if len(proof) > 0 || from.Size == to.Size && from.Root != to.Root || from.Size == 0 && from.Root != (&Frontier{}).Root() {
			return fault.Errorf(fault.AuditInconsistent, "the log of %d records has another root than before", from.Size)
		}
		return nil
	}
	if err := tlog.CheckTree(proof, to.Size, to.Root, from.Size, from.Root); err != nil {
		return fault.Wrapf(fault.AuditInconsistent, err, "no proof shows that the first %d of the log's %d records are those that it had before", from.Size, to.Size)
	}
	return nil
}
