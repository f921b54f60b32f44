package watch

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"holdfast/attest/appraisal"
	"holdfast/attest/privatefile"
)

// Format names the files of a [Store], and their version.
const Format = "holdfast-watch/v1"

// maxFile is the size of the largest file of a store, in bytes.
const maxFile = 4 << 20

// Store is a folder with what is known of machines. It has two files, each written by one
// program alone and each whole or not at all: seen.json by the one who watches, accepted.json
// by the one who accepts. Only their owner may read them. They are not signed: whoever can
// write them can also change the program and the policies, and is trusted.
type Store struct{ dir string }

// NewStore gives the store in the folder, which must exist.
func NewStore(dir string) (*Store, error) {
	if info, err := os.Stat(dir); err != nil {
		return nil, err
	} else if !info.IsDir() {
		return nil, fmt.Errorf("%s is a file; name a folder", dir)
	}
	return &Store{dir}, nil
}

// record is what is known of a machine.
type record struct {
	// Known is what counts as unchanged; nil before the first look that passes.
	Known *Seen `json:"known,omitempty"`
	// Newest is what was seen last, at NewestAt.
	Newest   *Seen     `json:"newest,omitempty"`
	NewestAt time.Time `json:"newest_at,omitzero"`
	// Unanswered is since when no look was answered; zero if the newest was.
	Unanswered time.Time `json:"unanswered,omitzero"`
	// Alarm is the one that stands; nil for none.
	Alarm *standing `json:"alarm,omitempty"`
	// Accepted is how many acceptances of this machine Known has in it.
	Accepted int `json:"accepted,omitempty"`
}

// standing is an alarm that stands, or the end of one that is still to be told.
type standing struct {
	ID     string    `json:"id"`
	Since  time.Time `json:"since"`
	About  string    `json:"about"` // what it is about; empty for the end of one
	Told   bool      `json:"told"`
	Ending bool      `json:"ending,omitempty"`
}

type seenFile struct {
	Format   string             `json:"format"`
	Machines map[string]*record `json:"machines"`
}

// Acceptance is a change that a person has taken as known.
type Acceptance struct {
	Machine string    `json:"machine"`
	At      time.Time `json:"at"`
	By      string    `json:"by"`
	Reason  string    `json:"reason"`
	Seen    *Seen     `json:"seen"`
}

type acceptedFile struct {
	Format   string       `json:"format"`
	Accepted []Acceptance `json:"accepted"`
}

func (s *Store) seenPath() string     { return filepath.Join(s.dir, "seen.json") }
func (s *Store) acceptedPath() string { return filepath.Join(s.dir, "accepted.json") }

// load reads both files, and has what was accepted be known. A file that is missing is that of
// a store in which nothing was seen yet, or accepted.
func (s *Store) load() (map[string]*record, []Acceptance, error) {
	seen, accepted := seenFile{Format: Format, Machines: map[string]*record{}}, acceptedFile{Format: Format}
	for path, into := range map[string]any{s.seenPath(): &seen, s.acceptedPath(): &accepted} {
		if err := read(path, into); err != nil {
			return nil, nil, err
		}
	}
	for path, format := range map[string]string{s.seenPath(): seen.Format, s.acceptedPath(): accepted.Format} {
		if format != Format {
			return nil, nil, fmt.Errorf("%s has the format %.40q, and this program reads %q", path, format, Format)
		}
	}
	for name, r := range seen.Machines {
		if r == nil {
			return nil, nil, fmt.Errorf("%s says nothing of the machine %.80q", s.seenPath(), name)
		}
	}
	n := map[string]int{}
	for _, a := range accepted.Accepted {
		if a.Seen == nil {
			return nil, nil, fmt.Errorf("%s does not say what of %.80q was accepted", s.acceptedPath(), a.Machine)
		}
		n[a.Machine]++
		r := seen.Machines[a.Machine]
		if r == nil {
			r = &record{}
			seen.Machines[a.Machine] = r
		}
		if n[a.Machine] > r.Accepted {
			r.Known, r.Accepted = a.Seen, n[a.Machine]
		}
	}
	return seen.Machines, accepted.Accepted, nil
}

func read(path string, into any) error {
	f, err := privatefile.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return err
	}
	if len(text) > maxFile {
		return fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	if err := json.Unmarshal(text, into, json.RejectUnknownMembers(true)); err != nil {
		return fmt.Errorf("%s is damaged, so what was seen before is not known; restore it from a backup, or take it away and every machine is looked at for the first time: %w", path, err)
	}
	return nil
}

func write(path string, content any) error {
	return privatefile.Replace(path, func(w io.Writer) error {
		return json.MarshalWrite(w, content, json.Deterministic(true), jsontext.WithIndent("  "))
	})
}

func (s *Store) save(machines map[string]*record) error {
	return write(s.seenPath(), seenFile{Format, machines})
}

const maxWords = 200

// words says what is wrong with a text that a person gives; nil for nothing.
func words(what, text string) error {
	if n := utf8.RuneCountInString(text); n == 0 || n > maxWords || !utf8.ValidString(text) ||
		slices.ContainsFunc([]rune(text), func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("%s: use 1 to %d printable characters", what, maxWords)
	}
	return nil
}

// Accept has what was seen of the machine last be known from now on; By and Reason say who
// wants it and why. If digest is not empty, it must be that of what was seen
// ([Seen.Digest]). It gives the acceptance and what changes by it. Nothing of evidence that
// fails is accepted, and nothing where nothing has changed.
func (s *Store) Accept(machine, by, reason, digest string, at time.Time) (*Acceptance, []Change, error) {
	if err := errors.Join(words("by", by), words("reason", reason)); err != nil {
		return nil, nil, err
	}
	machines, all, err := s.load()
	if err != nil {
		return nil, nil, err
	}
	r := machines[machine]
	switch {
	case r == nil || r.Newest == nil:
		return nil, nil, fmt.Errorf("nothing was seen of a machine %.80q yet; run holdfast watch --once first", machine)
	case r.Newest.Verdict == appraisal.Fail:
		return nil, nil, fmt.Errorf("the newest evidence of %q fails (%v), so there is nothing in it that can be accepted; correct the machine or the policy", machine, r.Newest.Checks)
	case digest != "" && digest != r.Newest.Digest():
		return nil, nil, fmt.Errorf("what was seen last of %q is %s, and not %.80q; look at it before you accept it", machine, r.Newest.Digest(), digest)
	}
	var list []Change
	if r.Known != nil {
		if list = changes(r.Known, r.Newest); list == nil {
			return nil, nil, fmt.Errorf("nothing of %q has changed since it was seen first or accepted", machine)
		}
	}
	a := Acceptance{machine, at.UTC(), by, reason, r.Newest}
	return &a, list, write(s.acceptedPath(), acceptedFile{Format, append(all, a)})
}

// Accepted are all acceptances, in their order.
func (s *Store) Accepted() ([]Acceptance, error) {
	_, all, err := s.load()
	return all, err
}
