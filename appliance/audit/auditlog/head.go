package auditlog

import (
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
)

// Head gives the head of the log: how many records are on the disk, and the root of
// their tree (RFC 6962), as "SIZE ROOT" with the root in Base64. Who keeps it outside
// of the log's folder can have a later log proven against it ([Log.Prove]).
func (l *Log) Head() (string, error) {
	l.state.Lock()
	size := l.state.size
	l.state.Unlock()
	root, err := l.rootAt(size)
	if err != nil {
		return "", err
	}
	return audit.Head{Size: size, Root: root}.String(), nil
}

func (l *Log) rootAt(size int64) (tlog.Hash, error) {
	f, err := audit.TreeFile{R: l.tree}.FrontierAt(size)
	if err != nil {
		return tlog.Hash{}, err
	}
	return f.Root(), nil
}

// Prove says whether the log contains the head that was kept of it, and is
// consistent with it (RFC 6962 section 2.1.2): fault.AuditRewritten if not. From then
// on a log that was opened with [Options.Unproven] signs its records and applies
// retention. An empty head is for a log of which none was kept yet.
func (l *Log) Prove(head string) error {
	if head != "" {
		if err := l.contains(head); err != nil {
			return err
		}
	}
	l.state.Lock()
	if !l.state.proven {
		l.state.proven, l.state.since = true, l.opts.Now()
	}
	l.state.Unlock()
	signal(l.keeperWake)
	return nil
}

func (l *Log) contains(head string) error {
	h, err := audit.ParseHead(head)
	if err != nil {
		return err
	}
	l.state.Lock()
	now := l.state.size
	l.state.Unlock()
	if now < h.Size {
		return h.Shorter(now)
	}
	rootNow, err := l.rootAt(now)
	if err != nil {
		return err
	}
	if h.Size == 0 {
		return nil // every log begins with it
	}
	// The tree's file rests on the disk as well. A proof of consistency rests on no
	// hash of it that the two roots do not bind.
	proof, err := tlog.ProveTree(now, h.Size, audit.TreeFile{R: l.tree})
	if err == nil {
		err = tlog.CheckTree(proof, now, rootNow, h.Size, h.Root)
	}
	if err != nil {
		return h.Other(err)
	}
	return nil
}

// Unsigned says why requests are refused: for longer than the log may, the TPM has
// signed no checkpoint. Nil if they are not. While nothing is proven, nothing is
// signed, and nothing is refused for it.
func (l *Log) Unsigned() error {
	now := l.opts.Now()
	l.state.Lock()
	defer l.state.Unlock()
	return l.unsigned(now)
}

func (l *Log) unsigned(now time.Time) error {
	st := &l.state
	lag := st.size - st.covered.Size
	if !st.proven || lag == 0 || lag < l.opts.MaxUnsigned && now.Sub(st.since) < l.opts.MaxUnsignedTime {
		return nil
	}
	return fault.Errorf(fault.AuditUnsigned, "the last %d records of the audit log are not signed, the first of them for %s: the TPM does not sign; nothing is done until it does, but what takes out of service; read the cause in the log and restart the machine",
		lag, now.Sub(st.since).Round(time.Second))
}

// bound has requests refused, or no more, by how much is unsigned. The caller holds
// the lock of the state.
func (l *Log) bound(now time.Time) {
	err := l.unsigned(now)
	if err == nil {
		l.refusing.Store(nil)
		return
	}
	l.refusing.Store(&err)
}

func (l *Log) isProven() bool {
	l.state.Lock()
	defer l.state.Unlock()
	return l.state.proven
}
