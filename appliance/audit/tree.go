package audit

import (
	"crypto/sha256"
	"holdfast/appliance/fault"
	"io"

	"golang.org/x/mod/sumdb/tlog"
)

// Frontier is the right edge of a Merkle tree: the roots of the complete
// subtrees that its first n records make, one per bit of n. It is all that it
// takes to go on, or to know the root.
type Frontier struct {
	N     int64
	roots [64]tlog.Hash
}

// Push adds a record's hash, and appends to out the hashes that are stored for
// it, in the order of [tlog.StoredHashIndex].
func (f *Frontier) Push(leaf tlog.Hash, out []byte) []byte {
	out = append(out, leaf[:]...)
	level := 0
	for h := leaf; ; level++ {
		if f.N>>level&1 == 0 {
			f.roots[level] = h
			f.N++
			return out
		}
		h = tlog.NodeHash(f.roots[level], h)
		out = append(out, h[:]...)
	}
}

func (f *Frontier) Root() tlog.Hash {
	if f.N == 0 {
		return sha256.Sum256(nil)
	}
	var root tlog.Hash
	first := true
	for level := range f.roots {
		switch {
		case f.N>>level&1 == 0:
		case first:
			root, first = f.roots[level], false
		default:
			root = tlog.NodeHash(f.roots[level], root)
		}
	}
	return root
}

// LeafHash is [tlog.RecordHash] of a line. buf has one byte before the line,
// which is used meanwhile: so that nothing is copied or allocated.
func LeafHash(buf []byte) tlog.Hash {
	before := buf[0]
	buf[0] = 0 // RFC 6962, section 2.1
	h := sha256.Sum256(buf)
	buf[0] = before
	return h
}

// TreeFile is the file of stored hashes: a [tlog.HashReader].
type TreeFile struct{ R io.ReaderAt }

// ReadHashes reads the hashes at the indexes.
func (t TreeFile) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		if _, err := t.R.ReadAt(hashes[i][:], at*tlog.HashSize); err != nil {
			return nil, fault.Wrapf(fault.AuditTree, err, "the file of tree hashes cannot be read at hash %d", at)
		}
	}
	return hashes, nil
}

// FrontierAt reads the frontier of the first n records.
func (t TreeFile) FrontierAt(n int64) (*Frontier, error) {
	f := &Frontier{N: n}
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

// TreeSize is the size in bytes of the file of n records' hashes.
func TreeSize(n int64) int64 { return tlog.StoredHashCount(n) * tlog.HashSize }
