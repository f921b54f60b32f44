package auditlog_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"holdfast/appliance/audit"
	"holdfast/appliance/audit/auditlog"
	"holdfast/appliance/fault"
)

// wallClock says what it was set to.
type wallClock struct{ at atomic.Int64 }

func (c *wallClock) get() time.Time  { return time.Unix(0, c.at.Load()).UTC() }
func (c *wallClock) set(t time.Time) { c.at.Store(t.UnixNano()) }

// machine is a node with a key and a log of its own.
type machine struct {
	id, dir string
	key     *ecdsa.PrivateKey
	log     *auditlog.Log
	now     *wallClock
	has     map[string]*audit.Countersigned
}

func (m *machine) signer(t testing.TB) *audit.ECDSASigner {
	return got(audit.NewECDSASigner("test.example/audit", m.key))(t)
}

// start opens the log.
func (m *machine) start(t testing.TB, o auditlog.Options) {
	t.Helper()
	o.LogID, o.Signer, o.Now, o.NoSync = m.id, m.signer(t), m.now.get, true // no power fails here
	m.log = open(t, m.dir, o)
}

// acts logs some records, under a checkpoint.
func (m *machine) acts(t testing.TB, n int) {
	t.Helper()
	for i := range n {
		must(t, m.log.Append(t.Context(), record(i)))
	}
	got(m.log.Checkpoint())(t)
}

// countersigns has m countersign the newest head of another.
func (m *machine) countersigns(t testing.TB, of *machine) {
	t.Helper()
	head := &audit.SignedHead{Checkpoint: string(got(of.log.Newest())(t)), Key: of.signer(t).VerifierKey()}
	signed, _, err := m.log.Countersign(t.Context(), m.has[of.id], got(head.Open(of.id))(t), head)
	must(t, err)
	m.has[of.id] = signed
}

type threeNodes struct {
	a, b, c *machine
	now     wallClock
	keys    note.Verifiers
}

func (n *threeNodes) all() []*machine { return []*machine{n.a, n.b, n.c} }

// newFleet is three nodes that countersign each other's heads for some rounds, a minute each.
// The logs are closed.
func newFleet(t testing.TB, o auditlog.Options, rounds int) *threeNodes {
	t.Helper()
	n := &threeNodes{}
	n.now.set(time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC))
	var keys []note.Verifier
	for i, m := range []**machine{&n.a, &n.b, &n.c} {
		*m = &machine{id: fmt.Sprintf("node-%c", 'a'+i), dir: filepath.Join(t.TempDir(), "audit"), now: &n.now, has: map[string]*audit.Countersigned{},
			key: got(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)}
		keys = append(keys, got(audit.ParseVerifierKey((*m).signer(t).VerifierKey()))(t))
		(*m).start(t, o)
	}
	n.keys = note.VerifierList(keys...)
	for range rounds {
		n.round(t)
	}
	n.close(t)
	return n
}

func (n *threeNodes) round(t testing.TB) {
	t.Helper()
	n.now.set(n.now.get().Add(time.Minute))
	for _, m := range n.all() {
		m.acts(t, 3)
	}
	for _, m := range n.all() {
		for _, of := range n.all() {
			if of != m {
				m.countersigns(t, of)
			}
		}
	}
}

func (n *threeNodes) close(t testing.TB) {
	t.Helper()
	for _, m := range n.all() {
		must(t, m.log.Close())
	}
}

// newest is the newest head of a log that another has countersigned.
func (n *threeNodes) newest(id string) (size int64) {
	for _, m := range n.all() {
		if c := m.has[id]; c != nil {
			size = max(size, c.Size)
		}
	}
	return size
}

func (n *threeNodes) dirs() []string { return []string{n.a.dir, n.b.dir, n.c.dir} }

func (n *threeNodes) verify(t testing.TB, dirs ...string) *audit.FleetReport {
	t.Helper()
	return got(audit.VerifyFleet(dirs, n.keys, audit.FleetOptions{}))(t)
}

// cut cuts a log to the newest checkpoint of fewer records than that, as who has no key can.
func cut(t testing.TB, dir string, below int64) {
	t.Helper()
	file := filepath.Join(dir, audit.CheckpointsName)
	in := &audit.Notes{R: bytes.NewReader(read(t, file))}
	var all [][]byte
	for {
		signed, _, err := in.Next()
		must(t, err)
		if signed == nil || got(audit.UnverifiedCheckpoint(signed))(t).Size >= below {
			break
		}
		all = append(all, bytes.Clone(signed))
	}
	write(t, file, append(bytes.Join(all, []byte("\n")), '\n'))
	size := got(audit.UnverifiedCheckpoint(all[len(all)-1]))(t).Size
	n := got(audit.ListSegments(dir))(t)[0].First
	for _, s := range segments(t, dir) {
		editLines(t, s, func(lines [][]byte) [][]byte {
			keep := min(max(0, size-n), int64(len(lines)))
			n += int64(len(lines))
			return lines[:keep]
		})
		if len(read(t, s)) == 0 {
			must(t, os.Remove(s))
		}
	}
	must(t, os.Truncate(filepath.Join(dir, audit.TreeName), audit.TreeSize(size)))
}

// rewrite makes the log of a machine again, edited, with its own key and clock.
func (m *machine) rewrite(t testing.TB, change func(r *audit.Record)) {
	t.Helper()
	var records []*audit.Record
	for _, s := range segments(t, m.dir) {
		for line := range bytes.Lines(read(t, s)) {
			records = append(records, got(audit.ParseRecord(bytes.TrimSuffix(line, []byte("\n"))))(t))
		}
	}
	must(t, os.RemoveAll(m.dir))
	end := m.now.get()
	m.start(t, options())
	for _, r := range records {
		m.now.set(r.Time)
		change(r)
		if r.Operation == audit.CountersignHead {
			c := audit.CountersignedOf(r)
			_, _, err := m.log.Countersign(t.Context(), nil, got(c.Open(c.LogID))(t), &c.SignedHead)
			must(t, err)
		} else {
			must(t, m.log.Append(t.Context(), r))
		}
		got(m.log.Checkpoint())(t)
	}
	must(t, m.log.Close())
	m.now.set(end)
}

// TestVerifyFleet: what was done to the log of one node, even with its own key, is found by
// what the others have countersigned: both nodes, record numbers and times.
func TestVerifyFleet(t *testing.T) {
	plain, retained := small(), small()
	retained.RetainBytes = 9000
	for name, tt := range map[string]struct {
		options auditlog.Options
		tamper  func(t *testing.T, n *threeNodes)
		code    fault.Code // of the log of node-b; whole if empty
		says    string
	}{
		"nothing":                {plain, func(*testing.T, *threeNodes) {}, "", ""},
		"nothing, and retention": {retained, func(*testing.T, *threeNodes) {}, "", ""},
		"the tree is gone": {plain, func(t *testing.T, n *threeNodes) {
			drop(t, filepath.Join(n.b.dir, audit.TreeName))
		}, "", ""},
		"cut": {plain, func(t *testing.T, n *threeNodes) { cut(t, n.b.dir, n.newest("node-b")) }, fault.AuditInconsistent, "its end was cut off"},
		"cut, where records were removed by retention": {retained, func(t *testing.T, n *threeNodes) {
			for _, m := range n.all() {
				m.start(t, small())
			}
			n.round(t)
			n.round(t)
			n.close(t)
			cut(t, n.b.dir, n.newest("node-b"))
		}, fault.AuditInconsistent, "its end was cut off"},
		"rewritten with its own key": {plain, func(t *testing.T, n *threeNodes) {
			n.b.rewrite(t, func(r *audit.Record) {
				if r.Seq == 11 {
					r.Principal = "nobody"
				}
			})
		}, fault.AuditInconsistent, "is not the one that was countersigned"},
		"rewritten with its own key, and shorter": {plain, func(t *testing.T, n *threeNodes) {
			n.b.rewrite(t, func(*audit.Record) {})
			cut(t, n.b.dir, n.newest("node-b"))
		}, fault.AuditInconsistent, "node-"},
		"an edited record": {plain, func(t *testing.T, n *threeNodes) {
			edit(t, segments(t, n.b.dir)[0], func(b []byte) []byte { return bytes.Replace(b, []byte("allowed"), []byte("denied"), 1) })
		}, fault.AuditEdited, "not the one that was logged"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newFleet(t, tt.options, 10)
			tt.tamper(t, n)
			r := n.verify(t, n.dirs()...)
			if len(r.Logs) != 3 || len(r.Missing) != 0 || len(r.Notes) != 0 {
				t.Fatalf("%+v", r)
			}
			for i, l := range r.Logs {
				switch {
				case tt.code != "" && i == 1:
					if l.Broken == nil {
						t.Fatalf("it is %s", r.Verdict)
					}
					if r.Verdict != audit.VerdictBroken || l.Broken.Code != tt.code || !strings.Contains(l.Broken.Message, tt.says) {
						t.Errorf("%s: the log of node-b: %+v", r.Verdict, l.Broken)
					}
					if tt.code != fault.AuditInconsistent {
						break
					}
					h := l.Broken.Countersigned
					for _, want := range []string{"node node-b", "node " + h.By, fmt.Sprintf("record %d", h.Seq), h.At.Format(time.RFC3339)} {
						if h.By == "node-b" || !strings.Contains(l.Broken.Message, want) {
							t.Errorf("it does not tell %s: %s", want, l.Broken.Message)
						}
					}
				case l.Broken != nil || l.Error != "":
					t.Errorf("the log of %s: %s%+v", l.LogID, l.Error, l.Broken)
				case l.Countersigned < 18 && l.First == 0 || l.Countersigned == 0: // by two nodes, in ten rounds
					t.Errorf("of %s %d heads are countersigned", l.LogID, l.Countersigned)
				}
			}
			if tt.code == "" && r.Verdict != audit.VerdictWhole {
				t.Errorf("the verdict is %s", r.Verdict)
			}
		})
	}
}

// TestVerifyFleetFolders: what is wrong with the folders that are given, not with a log.
func TestVerifyFleetFolders(t *testing.T) {
	n := newFleet(t, small(), 4)
	old := copied(t, n.b.dir)
	for _, m := range n.all() {
		m.start(t, small())
	}
	n.round(t)
	n.close(t)

	t.Run("a log is missing", func(t *testing.T) {
		r := n.verify(t, n.a.dir, n.b.dir)
		if r.Verdict != audit.VerdictIncomplete || len(r.Missing) != 1 || r.Missing[0].LogID != "node-c" || r.Missing[0].By != "node-a" || r.Missing[0].At.IsZero() {
			t.Errorf("%s: %+v", r.Verdict, r.Missing)
		}
		if m := got(audit.MissingLogs([]string{n.a.dir, n.b.dir}))(t); len(m) != 1 || m[0] != r.Missing[0] {
			t.Errorf("alone it says %+v", m)
		}
		if r = n.verify(t, n.a.dir); r.Verdict != audit.VerdictIncomplete || len(r.Missing) != 2 {
			t.Errorf("one of three: %s, %+v", r.Verdict, r.Missing)
		}
	})
	t.Run("a folder is not there", func(t *testing.T) {
		r := n.verify(t, n.a.dir, n.b.dir, filepath.Join(t.TempDir(), "none"))
		if r.Verdict != audit.VerdictIncomplete || r.Logs[2].Error == "" || len(r.Missing) != 1 {
			t.Errorf("%s: %+v", r.Verdict, r)
		}
	})
	t.Run("broken, and a log is missing", func(t *testing.T) {
		bad := copied(t, n.b.dir)
		edit(t, segments(t, bad)[0], func(b []byte) []byte { return bytes.Replace(b, []byte("allowed"), []byte("denied"), 1) })
		if r := n.verify(t, n.a.dir, bad); r.Verdict != audit.VerdictBroken {
			t.Errorf("%s: %+v", r.Verdict, r)
		}
	})
	t.Run("not one log", func(t *testing.T) {
		link := filepath.Join(t.TempDir(), "link")
		must(t, os.Symlink(n.a.dir, link))
		for what, tt := range map[string]struct {
			dirs []string
			says string
		}{
			"a folder twice":   {[]string{n.a.dir, n.b.dir, n.a.dir}, "the same folder"},
			"by another name":  {[]string{n.a.dir, link}, "the same folder"},
			"a copy":           {[]string{n.a.dir, copied(t, n.a.dir)}, "the same log, node-a"},
			"an older copy":    {[]string{n.a.dir, n.b.dir, old}, old + " has an older copy"},
			"the older before": {[]string{old, n.a.dir, n.b.dir}, "give only " + n.b.dir},
		} {
			if _, err := audit.VerifyFleet(tt.dirs, n.keys, audit.FleetOptions{}); fault.CodeOf(err) != fault.Invalid || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if _, err := audit.VerifyFleet(n.dirs(), n.keys, audit.FleetOptions{LogID: "node-a"}); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("an ID for three: %v", err)
		}
	})
	t.Run("two histories of one log", func(t *testing.T) {
		fork := &machine{id: "node-b", dir: copied(t, old), key: n.b.key, now: n.b.now, has: map[string]*audit.Countersigned{}}
		fork.start(t, small())
		n.now.set(n.now.get().Add(time.Second))
		fork.acts(t, 2)
		must(t, fork.log.Close())
		r := n.verify(t, n.a.dir, n.b.dir, n.c.dir, fork.dir)
		if r.Verdict != audit.VerdictBroken || len(r.Notes) == 0 || !strings.Contains(r.Notes[0], "both have the log node-b, and are not consistent") {
			t.Errorf("%s: %q", r.Verdict, r.Notes)
		}
	})
	t.Run("two logs of one machine", func(t *testing.T) {
		second := &machine{id: "node-b2", dir: filepath.Join(t.TempDir(), "audit"), key: n.b.key, now: n.b.now}
		second.start(t, small())
		second.acts(t, 2)
		must(t, second.log.Close())
		r := n.verify(t, append(n.dirs(), second.dir)...)
		if r.Verdict != audit.VerdictWhole || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "signs the logs node-b and node-b2") {
			t.Errorf("%s: %q", r.Verdict, r.Notes)
		}
	})
	t.Run("checkpoints that were kept", func(t *testing.T) {
		kept := func(dir string) []byte {
			text := read(t, filepath.Join(dir, audit.CheckpointsName))
			signed, _, err := audit.LastNote(bytes.NewReader(text), int64(len(text)))
			must(t, err)
			return signed
		}
		b, c := kept(n.b.dir), kept(n.c.dir)
		for what, tt := range map[string]struct {
			dirs        []string
			checkpoints [][]byte
			says        string // empty if they can be verified
		}{
			"of two":        {n.dirs(), [][]byte{b, c}, ""},
			"of another":    {[]string{n.a.dir, n.b.dir}, [][]byte{c}, "is in none of the folders"},
			"twice of one":  {n.dirs(), [][]byte{b, b}, "give the newer"},
			"no checkpoint": {n.dirs(), [][]byte{[]byte("none")}, "is not good"},
		} {
			r, err := audit.VerifyFleet(tt.dirs, n.keys, audit.FleetOptions{Checkpoints: tt.checkpoints})
			if tt.says == "" && (err != nil || r.Verdict != audit.VerdictWhole) || tt.says != "" && (fault.CodeOf(err) != fault.Invalid || !strings.Contains(err.Error(), tt.says)) {
				t.Errorf("%s: %v", what, err)
			}
		}
		r, err := audit.VerifyFleet([]string{n.a.dir, old, n.c.dir}, n.keys, audit.FleetOptions{Checkpoints: [][]byte{b}})
		if err != nil || r.Logs[1].Broken == nil || r.Logs[1].Broken.Code != fault.AuditRolledBack {
			t.Errorf("of an older copy: %v, %+v", err, r)
		}
	})
}

// TestCopiesOfDifferentMoments: copies of logs that grow are not of one moment. They verify
// up to the time when the first was begun, and what was cut off before it is still found.
func TestCopiesOfDifferentMoments(t *testing.T) {
	n := newFleet(t, small(), 4)
	early, until, before := copied(t, n.a.dir), n.now.get(), n.newest("node-a")
	for _, m := range n.all() {
		m.start(t, small())
	}
	n.round(t)
	n.close(t)
	dirs := []string{early, n.b.dir, n.c.dir}
	if r := n.verify(t, dirs...); r.Verdict != audit.VerdictBroken || r.Logs[0].Broken == nil || r.Logs[0].Broken.Code != fault.AuditInconsistent {
		t.Errorf("%s: %+v", r.Verdict, r.Logs[0].Broken)
	}
	o := audit.FleetOptions{Until: until}
	if r := got(audit.VerifyFleet(dirs, n.keys, o))(t); r.Verdict != audit.VerdictWhole {
		t.Errorf("until then: %s: %+v", r.Verdict, r.Logs)
	}
	cut(t, early, before)
	if r := got(audit.VerifyFleet(dirs, n.keys, o))(t); r.Verdict != audit.VerdictBroken || r.Logs[0].Broken.Code != fault.AuditInconsistent {
		t.Errorf("cut before: %s: %+v", r.Verdict, r.Logs[0].Broken)
	}
}

// TestForgedCountersignature: a countersignature that was edited, or is of another head than
// its record says, is found, also where the log's own key has signed it all.
func TestForgedCountersignature(t *testing.T) {
	for name, forge := range map[string]func(t *testing.T, n *threeNodes, c map[string]any){
		"another size": func(_ *testing.T, _ *threeNodes, c map[string]any) { c["size"] = 1 },
		"another log":  func(_ *testing.T, _ *threeNodes, c map[string]any) { c["log"] = "node-c" },
		"by a key that nobody knows": func(t *testing.T, n *threeNodes, c map[string]any) {
			stranger := &machine{key: got(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)}
			head := &audit.SignedHead{Checkpoint: c["checkpoint"].(string), Key: c["key"].(string)}
			c["countersignature"] = got(audit.Countersign(got(head.Open("node-b"))(t), head, stranger.signer(t)))(t).Countersignature
		},
		"none":         func(_ *testing.T, _ *threeNodes, c map[string]any) { delete(c, "countersignature") },
		"a checkpoint": func(_ *testing.T, _ *threeNodes, c map[string]any) { c["countersignature"] = c["checkpoint"] },
	} {
		t.Run(name, func(t *testing.T) {
			n := newFleet(t, small(), 3)
			done := false
			for _, s := range segments(t, n.a.dir) {
				editLines(t, s, func(lines [][]byte) [][]byte {
					for i, line := range lines {
						r := got(audit.ParseRecord(bytes.TrimSuffix(line, []byte("\n"))))(t)
						if done || audit.NamedLog(r) != "node-b" {
							continue
						}
						var c map[string]any
						must(t, json.Unmarshal(r.After, &c))
						forge(t, n, c)
						r.After = got(json.Marshal(c))(t)
						lines[i] = append(got(r.AppendJSON(nil))(t), '\n')
						done = true
					}
					return lines
				})
			}
			resign(t, n.a)
			r := n.verify(t, n.a.dir)
			b := r.Logs[0].Broken
			if r.Verdict != audit.VerdictBroken || b == nil || b.Code != fault.AuditCheckpointForged || !strings.Contains(b.Message, "countersign") || b.Segment == "" {
				t.Errorf("%s: %+v", r.Verdict, b)
			}
		})
	}
}

// resign makes the tree and one checkpoint of what the segments hold, with the machine's key.
func resign(t testing.TB, m *machine) {
	t.Helper()
	rebuildTree(t, m.dir)
	size := int64(0)
	for _, s := range segments(t, m.dir) {
		size += int64(bytes.Count(read(t, s), []byte("\n")))
	}
	f := got(os.Open(filepath.Join(m.dir, audit.TreeName)))(t)
	defer f.Close()
	c := &audit.Checkpoint{LogID: m.id, Size: size, Root: got(audit.TreeFile{R: f}.FrontierAt(size))(t).Root(), Time: m.now.get()}
	write(t, filepath.Join(m.dir, audit.CheckpointsName), append(got(audit.SignCheckpoint(c, m.signer(t)))(t), '\n'))
}
