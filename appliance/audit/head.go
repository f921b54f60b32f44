package audit

import (
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"holdfast/appliance/fault"
)

// Head is how many records a log has, and the root of their tree (RFC 6962). Who keeps
// it outside of the log's folder can have a later log proven against it.
type Head struct {
	Size int64
	Root tlog.Hash
}

// String gives the head as it is stored: "SIZE ROOT", with the root in Base64.
func (h Head) String() string {
	return strconv.FormatInt(h.Size, 10) + " " + base64.StdEncoding.EncodeToString(h.Root[:])
}

// ParseHead reads what [Head.String] gives: fault.AuditRewritten.
func ParseHead(head string) (Head, error) {
	digits, text, _ := strings.Cut(head, " ")
	size, err := strconv.ParseInt(digits, 10, 64)
	hash, notBase64 := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || notBase64 != nil || size < 0 || size > MaxSeq || len(hash) != tlog.HashSize {
		return Head{}, fault.Errorf(fault.AuditRewritten, "the head of the audit log that the state keeps is not one: %.100q; %s", head, WhatThen)
	}
	return Head{size, tlog.Hash(hash)}, nil
}

// WhatThen is what to do about a log that does not contain its head.
const WhatThen = "put the audit log's folder back as it was when the appliance stopped, or restore a backup to a new state volume"

// Shorter is the error of a log that has fewer records than its head says.
func (h Head) Shorter(records int64) error {
	return fault.Errorf(fault.AuditRewritten, "the audit log has %d records, and had %d when the state was last written: records were removed, or an older copy was put in its place; %s", records, h.Size, WhatThen)
}

// Other is the error of a log whose records are not those of its head.
func (h Head) Other(cause error) error {
	return fault.Wrapf(fault.AuditRewritten, cause, "the first %d records of the audit log are not those that it had when the state was last written; %s", h.Size, WhatThen)
}

// ProveHead says offline whether the log in a folder contains a head: its records are
// read and hashed. It checks no signature, which is for [Verify]. At is the time of the last
// record that the head covers; zero if retention has removed it. fault.AuditRewritten.
func ProveHead(dir string, h Head) (at time.Time, err error) {
	segments, err := ListSegments(dir)
	if err != nil {
		return at, err
	}
	tree, noTree := os.Open(filepath.Join(dir, TreeName)) // needed where records were removed
	if noTree == nil {
		defer tree.Close()
	}
	f := &Frontier{}
	if len(segments) > 0 && segments[0].First > 0 { // retention has removed those before
		if noTree != nil {
			return at, fault.Wrapf(fault.AuditTree, noTree, "the file of tree hashes cannot be read")
		}
		if f, err = (TreeFile{tree}).FrontierAt(segments[0].First); err != nil {
			return at, err
		}
	}
	p := headProof{head: h, tree: f}
	for _, s := range segments {
		if s.First != f.N {
			return at, fault.Errorf(fault.AuditSegmentMissing, "the records %d to %d are missing, and with them a segment", f.N, s.First-1)
		}
		if err := p.readSegment(filepath.Join(dir, s.Name())); err != nil {
			return at, err
		}
	}
	switch {
	case f.N < h.Size:
		return at, h.Shorter(f.N)
	case p.met || h.Size == 0:
		return p.at, nil
	}
	// It is of records that were removed. The proof rests on no hash of the tree's file
	// that the two roots do not bind.
	proof, err := tlog.ProveTree(f.N, h.Size, TreeFile{tree})
	if err == nil {
		err = tlog.CheckTree(proof, f.N, f.Root(), h.Size, h.Root)
	}
	if err != nil {
		return at, h.Other(err)
	}
	return at, nil
}

// headProof takes records into a tree until it is that of a head.
type headProof struct {
	head Head
	tree *Frontier
	met  bool
	at   time.Time
}

func (p *headProof) readSegment(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fault.Wrapf(fault.AuditIO, err, "a segment of the log cannot be read")
	}
	defer file.Close()
	for in := NewLines(file); ; {
		line, err := in.Next()
		if err == io.EOF || err == ErrTorn || err == ErrReserved { // the next segment tells whether records are missing
			return nil
		}
		if err != nil {
			return fault.Wrapf(fault.AuditIO, err, "a segment of the log cannot be read at record %d", p.tree.N)
		}
		p.tree.Push(LeafHash(line), nil)
		if p.tree.N != p.head.Size {
			continue
		}
		if p.tree.Root() != p.head.Root {
			return p.head.Other(nil)
		}
		p.met = true
		if start, err := ParseStart(line[1:]); err == nil {
			p.at, _ = ParseTime(start.Time)
		}
	}
}

// NewestState gives the newest head of the appliance's state that a checkpoint of the log in
// a folder names, and since when; zero if none does. It checks no signature, which is for
// [Verify].
func NewestState(dir string) (h StateHead, since time.Time, err error) {
	f, err := os.Open(filepath.Join(dir, CheckpointsName))
	if errors.Is(err, fs.ErrNotExist) {
		return h, since, nil
	}
	if err != nil {
		return h, since, fault.Wrapf(fault.AuditIO, err, "the checkpoints cannot be read")
	}
	defer f.Close()
	for notes := (Notes{R: f}); ; {
		signed, _, err := notes.Next()
		if signed == nil || err != nil {
			return h, since, err
		}
		c, err := UnverifiedCheckpoint(signed)
		if err != nil {
			return h, since, err
		}
		if c.State != h {
			h, since = c.State, c.Time
		}
	}
}
