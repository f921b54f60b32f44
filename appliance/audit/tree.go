package audit

import (
	"crypto/sha256"
	"holdfast/appliance/fault"
	"io"
	"os"

	"golang.org/x/mod/sumdb/tlog"
)

// frontier is the right edge of a Merkle tree: the roots of the complete
// subtrees that its first n records make, one per bit of n. It is all that it
// takes to go on, or to know the root.
type frontier struct {
	n     int64
	roots [64]tlog.Hash
}

// push adds a record's hash, and appends to out the hashes that are stored for
// it, in the order of [tlog.StoredHashIndex].
func (f *frontier) push(leaf tlog.Hash, out []byte) []byte {
	out = append(out, leaf[:]...)
	level := 0
	for h := leaf; ; level++ {
		if f.n>>level&1 == 0 {
			f.roots[level] = h
			f.n++
			return out
		}
		h = tlog.NodeHash(f.roots[level], h)
		out = append(out, h[:]...)
	}
}

func (f *frontier) root() tlog.Hash {
	if f.n == 0 {
		return sha256.Sum256(nil)
	}
	var root tlog.Hash
	first := true
	for level := range f.roots {
		switch {
		case f.n>>level&1 == 0:
		case first:
			root, first = f.roots[level], false
		default:
			root = tlog.NodeHash(f.roots[level], root)
		}
	}
	return root
}

// leafHash is [tlog.RecordHash] of a line. buf has one byte before the line,
// which is used meanwhile: so that nothing is copied or allocated.
func leafHash(buf []byte) tlog.Hash {
	before := buf[0]
	buf[0] = 0 // RFC 6962, section 2.1
	h := sha256.Sum256(buf)
	buf[0] = before
	return h
}

// treeFile is the file of stored hashes: a [tlog.HashReader].
type treeFile struct{ r io.ReaderAt }

// ReadHashes reads the hashes at the indexes.
func (t treeFile) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		if _, err := t.r.ReadAt(hashes[i][:], at*tlog.HashSize); err != nil {
			return nil, fault.Wrapf(fault.AuditTree, err, "the file of tree hashes cannot be read at hash %d", at)
		}
	}
	return hashes, nil
}

// frontierAt reads the frontier of the first n records.
func (t treeFile) frontierAt(n int64) (*frontier, error) {
	f := &frontier{n: n}
	for level := range f.roots {
		if n>>level&1 == 0 {
			continue
		}
		h, err := t.ReadHashes([]int64{tlog.StoredHashIndex(level, n>>level-1)})
		if err != nil {
			return nil, err
		}
		f.roots[level] = h[0]
	}
	return f, nil
}

// treeSize is the size in bytes of the file of n records' hashes.
func treeSize(n int64) int64 { return tlog.StoredHashCount(n) * tlog.HashSize }

// treeWriter writes stored hashes from a place on, in large pieces.
type treeWriter struct {
	file *os.File
	at   int64
	buf  []byte
}

func (w *treeWriter) push(f *frontier, leaf tlog.Hash) error {
	w.buf = f.push(leaf, w.buf)
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
