package auditlog

import (
	"errors"
	"os"
	"slices"

	"holdfast/appliance/audit"
)

// runIndexer makes the indexes of segments that have ended.
func (l *Log) runIndexer() {
	for {
		l.index()
		select {
		case <-l.indexerWake:
		case <-l.stopping:
			return
		}
	}
}

func (l *Log) index() {
	l.state.Lock()
	segments := slices.Clone(l.state.segments)
	l.state.Unlock()
	for i, s := range segments {
		if i == len(segments)-1 {
			l.setIndexed(s.First)
			return
		}
		select {
		case <-l.stopping:
			return
		default:
		}
		if audit.HasIndex(l.dir, s) {
			l.setIndexed(segments[i+1].First)
			continue
		}
		if err := audit.BuildIndex(l.dir, s); err != nil {
			if !errors.Is(err, os.ErrNotExist) { // retention may have been faster
				l.opts.Log.Warn("a segment of the audit log has no index; searching it is slow", "segment", s.Name(), "error", err)
			}
			continue
		}
		l.setIndexed(segments[i+1].First)
	}
}

func (l *Log) setIndexed(n int64) {
	l.state.Lock()
	defer l.state.Unlock()
	l.state.indexed = max(l.state.indexed, n)
}
