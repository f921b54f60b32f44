package sqlite

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"math/bits"
	"os"
	"path/filepath"

	"holdfast/appliance/fault"
)

// SQLite reads the write-ahead log up to the first frame that is not whole, and takes no
// notice of what follows. So damage in the middle of the log undoes changes that were
// answered, and nobody is told. What is lost is found here, before SQLite opens the file
// (https://www.sqlite.org/fileformat2.html#the_write_ahead_log).
//
// A crash tears the end of the log too. It is told from loss by what follows the first
// frame that is not whole: after a process was killed, nothing does. After a power
// failure the frames of the last transaction may be there in part, in any order, as they
// were not synchronized yet. A frame of another transaction that follows says that the one
// before it was synchronized.

const (
	walHeaderBytes   = 32
	frameHeaderBytes = 24
	walMagic         = 0x377f0682 // the last bit says that checksums are big-endian
)

// walLoss is what a write-ahead log has lost.
type walLoss struct {
	// Certain says that a transaction that was synchronized is lost. Otherwise that may
	// be, or the power failed before the last one was.
	certain bool
	// kept is how many bytes of the log SQLite would read.
	kept int64
}

func (l *walLoss) fault() error {
	return fault.Errorf(fault.StateLoss, "the database's write-ahead log is damaged after its first %d bytes, and transactions follow that SQLite cannot read any more: changes that were answered are missing", l.kept)
}

// lostSuffix names the copy of a damaged log, which stays until the state is accepted.
const lostSuffix = "-wal.lost"

// findLoss looks for loss in the log of the database at path. It keeps a copy of a damaged
// log, so that the next start knows of the loss as well, and cuts off what SQLite
// does not read.
func findLoss(path string, log *slog.Logger) (*walLoss, error) {
	wal, saved := path+"-wal", path+lostSuffix
	loss, err := scanFile(wal)
	if err != nil {
		return nil, err
	}
	if loss != nil {
		log.Error("the write-ahead log of the database is damaged, and changes are lost; a copy of it is kept", "copy", saved, "whole bytes", loss.kept)
		if err := keepLog(wal, saved); err != nil {
			return nil, err
		}
		if err := os.Truncate(wal, loss.kept); err != nil {
			return nil, err
		}
		return loss, nil
	}
	if _, err := os.Lstat(saved); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if loss, err = scanFile(saved); err == nil && loss == nil {
		loss = &walLoss{certain: true} // somebody else has changed the copy
	}
	return loss, err
}

// keepLog copies a file durably. A copy that is there already stays: it was made first.
func keepLog(from, to string) error {
	if _, err := os.Lstat(to); err == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	partial := to + ".tmp"
	out, err := os.OpenFile(partial, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return err
	}
	if err := os.Rename(partial, to); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func scanFile(path string) (*walLoss, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return scanLog(bufio.NewReaderSize(f, 1<<20), info.Size())
}

// scanLog gives what a log of that size has lost; nil if nothing.
func scanLog(r io.Reader, size int64) (*walLoss, error) {
	if size <= walHeaderBytes {
		return nil, nil
	}
	header := make([]byte, walHeaderBytes)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	magic := binary.BigEndian.Uint32(header)
	sum := checksum{big: magic&1 == 1}
	sum.add(header[:24])
	page := int64(binary.BigEndian.Uint32(header[8:]))
	if magic&^1 != walMagic || !sum.is(header[24:]) || page < 512 || page > 65536 || page&(page-1) != 0 {
		// The header is synchronized before a frame is written.
		return &walLoss{certain: true}, nil
	}
	salts := [8]byte(header[16:24])
	loss := walLoss{kept: walHeaderBytes}
	whole, commits := true, 0
	frame := make([]byte, frameHeaderBytes+page)
	for end := walHeaderBytes + int64(len(frame)); end <= size; end += int64(len(frame)) {
		if _, err := io.ReadFull(r, frame); err != nil {
			return nil, err
		}
		ours := [8]byte(frame[8:16]) == salts // not of before the log was begun again
		commit := binary.BigEndian.Uint32(frame[4:]) != 0
		if whole {
			sum.add(frame[:8])
			sum.add(frame[frameHeaderBytes:])
			whole = ours && binary.BigEndian.Uint32(frame) != 0 && sum.is(frame[16:24])
			if whole && commit {
				loss.kept = end
			}
			continue
		}
		if !ours {
			continue
		}
		loss.certain = loss.certain || commits > 0
		if commit {
			commits++
		}
	}
	if commits == 0 {
		return nil, nil
	}
	return &loss, nil
}

// checksum is that of the log: it goes on from frame to frame.
type checksum struct {
	big    bool // in which order its words are
	s0, s1 uint32
}

func (c *checksum) add(b []byte) {
	s0, s1 := c.s0, c.s1
	for ; len(b) >= 8; b = b[8:] {
		first, second := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
		if c.big {
			first, second = bits.ReverseBytes32(first), bits.ReverseBytes32(second)
		}
		s0 += first + s1
		s1 += second + s0
	}
	c.s0, c.s1 = s0, s1
}

func (c *checksum) is(stored []byte) bool {
	return binary.BigEndian.Uint32(stored) == c.s0 && binary.BigEndian.Uint32(stored[4:]) == c.s1
}

// lost says that changes are missing, unless an anchor outside of the database can tell
// whether they are.
func (s *DB) lost(anchored bool) error {
	if l := s.loss.Load(); l != nil && (l.certain || !anchored) {
		return l.fault()
	}
	return nil
}

// forgetLoss ends what lost says: people have accepted it, or the anchor has ruled it out.
func (s *DB) forgetLoss() error {
	if s.loss.Load() == nil {
		return nil
	}
	if err := os.Remove(s.path + lostSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failed("the copy of the damaged write-ahead log cannot be removed", err)
	}
	s.loss.Store(nil)
	return nil
}
