package sqlite

import (
	"cmp"
	"context"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest"
)

// Machine keeps the rows about this machine, which no other machine shares: the
// tables of [machineTables]. No snapshot has them. They are in the same file as the
// rest: there is one lock, one check at the start and one log of writes, and the
// policy's version, which only rises, need not move between files. A machine whose
// other rows are in another engine opens such a file for these alone.
type Machine struct{ db *DB }

var _ appliance.MachineRows = (*Machine)(nil)

// OpenState implements [appliance.MachineRows], where the rows about this machine are in a
// file of their own.
func (m *Machine) OpenState(ctx context.Context, o appliance.StateOptions) (*appliance.StateReport, error) {
	return m.db.OpenState(ctx, o)
}

// CloseState implements [appliance.MachineRows].
func (m *Machine) CloseState() { m.db.CloseState() }

// SeenHead implements [appliance.SeenHeadRows].
func (m *Machine) SeenHead(ctx context.Context) (*appliance.SeenHead, error) {
	s := &appliance.SeenHead{}
	err := m.db.read(ctx, func(c *conn) error {
		if matches, err := m.db.rowMatches(ctx, c, "seen_head", "one = 1"); err != nil || !matches {
			return cmp.Or(err, stateChanged())
		}
		var sequence int64
		found, err := c.one([]any{&sequence, &s.Head.Digest, millis{&s.Head.At}, millis{&s.Since}}, `SELECT sequence, digest, at, since FROM seen_head`)
		s.Head.Sequence = uint64(sequence)
		if err == nil && !found {
			return fault.Errorf(fault.NotFound, "this machine has taken over no state of a fleet yet")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// KeepSeenHead implements [appliance.SeenHeadRows].
func (m *Machine) KeepSeenHead(ctx context.Context, s appliance.SeenHead) error {
	return m.db.write(ctx, func(c *conn) error {
		if m.db.writer.counting == nil {
			return stateClosed()
		}
		_, err := c.exec(`INSERT INTO seen_head (one, sequence, digest, at, since) VALUES (1, ?, ?, ?, ?)
			ON CONFLICT (one) DO UPDATE SET sequence = excluded.sequence, digest = excluded.digest, at = excluded.at, since = excluded.since`,
			int64(s.Head.Sequence), s.Head.Digest, s.Head.At.UnixMilli(), s.Since.UnixMilli())
		return err
	})
}

var (
	_ boot.Journal                = (*Machine)(nil)
	_ appliance.AuditHeadRows     = (*Machine)(nil)
	_ appliance.WitnessedTimeRows = (*Machine)(nil)
)

// Machine gives the rows about this machine.
func (s *DB) Machine() *Machine { return &Machine{s} }

// keptSteps is how many steps of boots are kept, the newest.
const keptSteps = 10000

// RecordBootStep implements [boot.Journal].
func (m *Machine) RecordBootStep(ctx context.Context, b progress.Step) error {
	return m.db.write(ctx, func(c *conn) error {
		n, err := c.exec(`INSERT INTO boot_steps (boot, seq, state, began_at, took, code, reason) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT DO NOTHING`, b.Boot, b.Seq, b.State, b.Began.UnixMilli(), b.Took.Microseconds(), b.Code, b.Reason)
		if err != nil {
			return err
		}
		if n == 0 {
			return fault.Errorf(fault.Exists, "step %d of the boot %s is recorded already", b.Seq, b.Boot)
		}
		_, err = c.exec(`DELETE FROM boot_steps WHERE began_at <
			(SELECT began_at FROM boot_steps ORDER BY began_at DESC LIMIT 1 OFFSET ?)`, keptSteps)
		return err
	})
}

// BootSteps gives up to limit steps of boots, the newest first.
func (m *Machine) BootSteps(ctx context.Context, limit int) ([]progress.Step, error) {
	var list []progress.Step
	err := m.db.read(ctx, func(c *conn) error {
		return c.each(ctx, func(scan scanner) error {
			var b progress.Step
			var took int64
			err := scan(&b.Boot, &b.Seq, &b.State, millis{&b.Began}, &took, &b.Code, &b.Reason)
			b.Took = time.Duration(took) * time.Microsecond
			list = append(list, b)
			return err
		}, `SELECT boot, seq, state, began_at, took, code, reason FROM boot_steps ORDER BY began_at DESC, boot, seq DESC LIMIT ?`, limit)
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// RaisePolicyVersion implements [boot.Journal].
func (m *Machine) RaisePolicyVersion(ctx context.Context, policy attest.SignedID) (highest attest.SignedID, err error) {
	err = m.db.write(ctx, func(c *conn) error {
		_, err := c.exec(`INSERT INTO policy_version (one, version, digest) VALUES (1, ?, ?)
			ON CONFLICT (one) DO UPDATE SET version = excluded.version, digest = excluded.digest WHERE excluded.version > policy_version.version
			OR excluded.version = policy_version.version AND ifnull(length(policy_version.digest), 0) = 0`, int64(policy.Version), policy.Digest)
		if err != nil {
			return err
		}
		var stored int64
		_, err = c.one([]any{&stored, &highest.Digest}, `SELECT version, digest FROM policy_version`)
		highest.Version = uint64(stored)
		return err
	})
	return highest, err
}

// RaiseRecovery implements [boot.Journal].
func (m *Machine) RaiseRecovery(ctx context.Context, recovery attest.SignedID) (highest attest.SignedID, err error) {
	err = m.db.write(ctx, func(c *conn) error {
		if recovery.Version > 0 {
			if _, err := c.exec(`INSERT INTO policy_version (one, version, tcb_version, tcb_digest) VALUES (1, 0, ?, ?)
				ON CONFLICT (one) DO UPDATE SET tcb_version = excluded.tcb_version, tcb_digest = excluded.tcb_digest WHERE excluded.tcb_version > policy_version.tcb_version`,
				int64(recovery.Version), recovery.Digest); err != nil {
				return err
			}
		}
		var stored int64
		_, err = c.one([]any{&stored, &highest.Digest}, `SELECT tcb_version, tcb_digest FROM policy_version`)
		highest.Version = uint64(stored)
		return err
	})
	return highest, err
}

// PolicySeal gives what was noted, policy and TCB recovery file, each of the highest version;
// what was sealed of it; and the seal. All are zero if there is none.
func (m *Machine) PolicySeal(ctx context.Context) (highest, sealed boot.Noted, seal []byte, err error) {
	err = m.db.read(ctx, func(c *conn) error {
		var h, s, ht, st int64
		_, err := c.one([]any{&h, &highest.Policy.Digest, &ht, &highest.Recovery.Digest, &s, &sealed.Policy.Digest, &st, &sealed.Recovery.Digest, &seal},
			`SELECT version, digest, tcb_version, tcb_digest, sealed, sealed_digest, sealed_tcb_version, sealed_tcb_digest, seal FROM policy_version`)
		highest.Policy.Version, highest.Recovery.Version, sealed.Policy.Version, sealed.Recovery.Version = uint64(h), uint64(ht), uint64(s), uint64(st)
		return err
	})
	return highest, sealed, seal, err
}

// SealPolicyVersion notes the seal of a policy and of a TCB recovery file; fault.NotFound if
// no policy was noted.
func (m *Machine) SealPolicyVersion(ctx context.Context, of boot.Noted, seal []byte) error {
	return m.db.write(ctx, func(c *conn) error {
		n, err := c.exec(`UPDATE policy_version SET sealed = ?, sealed_digest = ?, sealed_tcb_version = ?, sealed_tcb_digest = ?, seal = ?`,
			int64(of.Policy.Version), of.Policy.Digest, int64(of.Recovery.Version), of.Recovery.Digest, seal)
		if err == nil && n == 0 {
			err = fault.Errorf(fault.NotFound, "no policy version was noted")
		}
		return err
	})
}

// AuditHead implements [appliance.AuditHeadRows].
func (m *Machine) AuditHead(ctx context.Context) (*appliance.AuditHeadRow, error) {
	row := &appliance.AuditHeadRow{}
	err := m.db.read(ctx, func(c *conn) error {
		if matches, err := m.db.rowMatches(ctx, c, "audit_head", "one = 1"); err != nil || !matches {
			return cmp.Or(err, stateChanged())
		}
		found, err := c.one([]any{&row.Value, &row.Seal}, `SELECT value, seal FROM audit_head`)
		if err == nil && !found {
			return fault.Errorf(fault.NotFound, "no head of the audit log was kept")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return row, nil
}

// KeepAuditHead implements [appliance.AuditHeadRows].
func (m *Machine) KeepAuditHead(ctx context.Context, anchor bool) error {
	return m.db.write(ctx, func(*conn) error {
		st := m.db.writer.counting
		if st == nil {
			return stateClosed()
		}
		st.tx.keepsHead, st.tx.anchored = true, anchor
		if anchor {
			st.tx.forced[appliance.ScopeInstallation] = true
		}
		return nil
	})
}

func setAuditHead(c *conn, row *appliance.AuditHeadRow) error {
	_, err := c.exec(`INSERT INTO audit_head (one, value, seal) VALUES (1, ?, ?)
		ON CONFLICT (one) DO UPDATE SET value = excluded.value, seal = excluded.seal WHERE value IS NOT excluded.value OR seal IS NOT excluded.seal`, row.Value, row.Seal)
	return err
}

// WitnessedTime implements [appliance.WitnessedTimeRows].
func (m *Machine) WitnessedTime(ctx context.Context) (*appliance.WitnessedTimeRow, error) {
	row := &appliance.WitnessedTimeRow{}
	err := m.db.read(ctx, func(c *conn) error {
		if matches, err := m.db.rowMatches(ctx, c, "witnessed_time", "one = 1"); err != nil || !matches {
			return cmp.Or(err, stateChanged())
		}
		found, err := c.one([]any{millis{&row.At}, &row.Seal}, `SELECT at, seal FROM witnessed_time`)
		if err == nil && !found {
			return fault.Errorf(fault.NotFound, "no witnessed time was kept")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return row, nil
}

// KeepWitnessedTime implements [appliance.WitnessedTimeRows].
func (m *Machine) KeepWitnessedTime(ctx context.Context, row *appliance.WitnessedTimeRow) error {
	return m.db.write(ctx, func(c *conn) error {
		_, err := c.exec(`INSERT INTO witnessed_time (one, at, seal) VALUES (1, ?, ?)
			ON CONFLICT (one) DO UPDATE SET at = excluded.at, seal = excluded.seal`, row.At.UnixMilli(), row.Seal)
		return err
	})
}
