package auditlog

import (
	"os"

	"golang.org/x/mod/sumdb/tlog"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
)

// treeWriter writes stored hashes from a place on, in large pieces.
type treeWriter struct {
	file *os.File
	at   int64
	buf  []byte
}

func (w *treeWriter) push(f *audit.Frontier, leaf tlog.Hash) error {
	w.buf = f.Push(leaf, w.buf)
	if len(w.buf) < 1<<20 {
		return nil
	}
	return w.flush()
}

func (w *treeWriter) flush() error {
	if _, err := w.file.WriteAt(w.buf, w.at); err != nil {
		return fault.Wrapf(fault.AuditIO, err, "the tree hashes could not be written")
	}
	w.at += int64(len(w.buf))
	w.buf = w.buf[:0]
	return nil
}
