package holdfastd

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/changelogtest"
	"holdfast/appliance/fault"
	"holdfast/cmd/internal/daemon"
)

// TestMovePutBack: what a move had made before it was finished, put back once the new place has
// served, is refused by this machine's TPM.
func TestMovePutBack(t *testing.T) {
	for to, point := range map[string]string{"fleet": "after the name holdfast.db.moved", toSingle: "after the name machine.db.moved"} {
		t.Run(to, func(t *testing.T) {
			m := newMachine(t, kind{tpm: true})
			names := []string{daemon.SharedFile, daemon.MachineFile}
			if to == toSingle {
				if err := m.run(&fuse{}, "fleet"); err != nil {
					t.Fatal(err)
				}
				names = []string{daemon.SingleFile}
			}
			m.killedAt(to, point)
			oldDir, oldLog := copyOf(t, m.dir), m.log.Clone()
			if err := m.run(&fuse{}, to); err != nil {
				t.Fatal(err)
			}
			m.blocks(names...)
			m.dir, m.log = oldDir, oldLog
			if err := m.run(&fuse{}, to); fault.CodeOf(err) != fault.StateRolledBack {
				t.Errorf("what was put back: %v", err)
			}
		})
	}
}

// killedAt has a move killed at a point.
func (m *machine) killedAt(to, point string) {
	m.t.Helper()
	all := &fuse{}
	if err := m.again(m.t).run(all, to); err != nil {
		m.t.Fatal(err)
	}
	at := slices.Index(all.points, point)
	if at < 0 {
		m.t.Fatalf("no point %q of %q", point, all.points)
	}
	if err := m.run(&fuse{left: at + 1}, to); err == nil {
		m.t.Fatal("it was not killed")
	}
}

// blocks has the rows serve, and the key blocked in them.
func (m *machine) blocks(names ...string) {
	m.t.Helper()
	a, end := m.unlocked(m.dir, names...)
	defer end()
	if _, err := a.Block(m.t.Context(), appliance.BlockTarget{KeyStore: "p", KeyID: "k"}, "compromised", "alice"); err != nil {
		m.t.Fatal(err)
	}
}

// TestGivenUpMove: files of a move that was given up do not count once another copy has taken over,
// and the command says that they may be removed.
func TestGivenUpMove(t *testing.T) {
	for to, kept := range map[string][]string{"fleet": {daemon.SingleFile}, toSingle: {daemon.SharedFile, daemon.MachineFile}} {
		t.Run(to, func(t *testing.T) {
			m := newMachine(t, kind{})
			if to == toSingle {
				if err := m.run(&fuse{}, "fleet"); err != nil {
					t.Fatal(err)
				}
			}
			m.killedAt(to, "after the name "+kept[len(kept)-1]+left)
			elsewhere := copyOf(t, m.dir)
			if err := m.run(&fuse{}, to); err != nil { // of the same files, elsewhere
				t.Fatal(err)
			}
			back, log := toSingle, m.log
			if to == toSingle {
				back, m.log = "fleet", changelogtest.NewMemory(nil)
			}
			if err := m.run(&fuse{}, back); err != nil {
				t.Fatal(err)
			}
			m.dir, m.log = elsewhere, log
			err := m.run(&fuse{}, to)
			if fault.CodeOf(err) != fault.StateSuperseded || !strings.Contains(err.Error(), "may be removed") {
				t.Fatalf("a move that was given up: %v", err)
			}
			files, err := filepath.Glob(m.dir + "/*" + moving)
			if err != nil || len(files) == 0 {
				t.Fatalf("there is nothing to remove: %v", err)
			}
			for _, file := range files {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
