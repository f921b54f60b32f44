package machinekey_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot"
	"holdfast/appliance/machine/machinekey"
)

// machine is one node's key and file.
type machine struct {
	machinekey.Key
	file  *machinekey.File
	again int // how often it sealed again what it alone has
	seal  []byte
}

// alone is what a machine alone has sealed.
var alone = appliance.Binding{Purpose: "alone", Fields: []string{"1"}}

// sealAlone seals it.
func (m *machine) sealAlone(_ context.Context, by ...*machinekey.Key) (err error) {
	m.again++
	m.seal, err = machinekey.SealBy(alone, by...)
	return err
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{file: &machinekey.File{Path: filepath.Join(t.TempDir(), "k"), Write: boot.WriteFile}}
	if err := m.Set(made(t, m.file)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Wipe)
	return m
}

func (m *machine) join(t *testing.T, fleet machinekey.FleetKey) (bool, error) {
	t.Helper()
	return machinekey.Join(t.Context(), &m.Key, m.file, fleet, m.sealAlone)
}

// TestNodesHaveOneMachineKey: the first node's key becomes that of all, each has it in its own
// file, and each verifies what another has sealed.
func TestNodesHaveOneMachineKey(t *testing.T) {
	fleet := appliancetest.Start(t, appliancetest.Options{}).Appliance
	first, second := newMachine(t), newMachine(t)
	id := first.ID()
	if id == second.ID() {
		t.Fatal("two machines have one key")
	}
	if _, err := fleet.FleetMachineKey(t.Context()); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("before: %v", err)
	}
	if taken, err := first.join(t, fleet); err != nil || taken || first.ID() != id {
		t.Errorf("the first: %v %v", taken, err)
	}
	if taken, err := second.join(t, fleet); err != nil || !taken || second.ID() != id || second.again != 2 {
		t.Errorf("the second: %v %v, sealed again %d times", taken, err, second.again)
	}
	row := appliance.Binding{Purpose: "user", Fields: []string{"alice"}}
	one, _ := first.MAC(row)
	if two, err := second.MAC(row); err != nil || !bytes.Equal(one, two) {
		t.Errorf("two MACs: %v", err)
	}
	rests, err := second.file.Read()
	if err != nil {
		t.Fatal(err)
	}
	var restarted machinekey.Key
	defer restarted.Wipe()
	if err := restarted.Set(rests); err != nil || restarted.ID() != id {
		t.Errorf("after a restart: %v", err)
	}
	for _, m := range []*machine{first, second} { // again at the next unlock
		if taken, err := m.join(t, fleet); err != nil || taken {
			t.Errorf("again: %v %v", taken, err)
		}
	}
	if err := fleet.LeaveMachineKey(t.Context(), bytes.Repeat([]byte("x"), 32)); fault.CodeOf(err) != fault.Changed {
		t.Errorf("a second key: %v", err)
	}
	fleet.Lock()
	if _, err := second.join(t, fleet); fault.CodeOf(err) != fault.Locked || second.ID() != id {
		t.Errorf("while locked: %v", err)
	}
}

// race is a fleet to which another node leaves its key first.
type race struct {
	machinekey.FleetKey
	other []byte
}

func (r *race) LeaveMachineKey(ctx context.Context, secret []byte) error {
	if err := r.FleetKey.LeaveMachineKey(ctx, r.other); err != nil {
		return err
	}
	return r.FleetKey.LeaveMachineKey(ctx, secret)
}

// TestTwoFirstMachineKeys: of two nodes that leave theirs at once, one takes the other's.
func TestTwoFirstMachineKeys(t *testing.T) {
	fleet := &race{appliancetest.Start(t, appliancetest.Options{}).Appliance, bytes.Repeat([]byte("o"), machinekey.Bytes)}
	m := newMachine(t)
	if taken, err := m.join(t, fleet); err != nil || !taken || m.again != 2 {
		t.Errorf("%v %v", taken, err)
	}
	if rests, err := m.file.Read(); err != nil || !bytes.Equal(rests, fleet.other) {
		t.Errorf("%x %v", rests, err)
	}
}

// TestJoinWithoutItsOwnKey: a node whose own key was lost takes the fleet's; one that cannot keep
// it has its own as before.
func TestJoinWithoutItsOwnKey(t *testing.T) {
	fleet := appliancetest.Start(t, appliancetest.Options{}).Appliance
	if _, err := newMachine(t).join(t, fleet); err != nil {
		t.Fatal(err)
	}
	lost := &machine{file: &machinekey.File{Path: filepath.Join(t.TempDir(), "k"), Write: boot.WriteFile}}
	t.Cleanup(lost.Wipe)
	if taken, err := lost.join(t, fleet); err != nil || !taken || lost.ID() == "" {
		t.Errorf("%v %v", taken, err)
	}
	full := newMachine(t)
	id := full.ID()
	full.file.Write = func(string, []byte) error { return errors.New("the disk is full") }
	if taken, err := full.join(t, fleet); err == nil || taken || full.ID() != id {
		t.Errorf("%v %v", taken, err)
	}
}

// TestJoinKilled: a machine that is killed at any moment while it takes the fleet's key over
// verifies at its next boot, by the key that it finds then, what it alone has sealed.
func TestJoinKilled(t *testing.T) {
	fleet := appliancetest.Start(t, appliancetest.Options{}).Appliance
	if _, err := newMachine(t).join(t, fleet); err != nil {
		t.Fatal(err)
	}
	killed := errors.New("killed")
	for _, own := range []bool{true, false} {
		for point := 1; ; point++ {
			m := newMachine(t)
			if err := m.sealAlone(t.Context(), &m.Key); err != nil {
				t.Fatal(err)
			}
			if !own { // it was lost
				m.Wipe()
				if err := os.Remove(m.file.Path); err != nil {
					t.Fatal(err)
				}
			}
			left := point
			around := func(do func() error) error { // between two points
				if left--; left <= 0 {
					return killed
				}
				err := do()
				if left--; left <= 0 {
					return killed
				}
				return err
			}
			write := m.file.Write
			m.file.Write = func(path string, content []byte) error { return around(func() error { return write(path, content) }) }
			_, err := machinekey.Join(t.Context(), &m.Key, m.file, fleet, func(ctx context.Context, by ...*machinekey.Key) error {
				return around(func() error { return m.sealAlone(ctx, by...) })
			})
			m.file.Write = write
			if err == nil {
				if point != 7 {
					t.Errorf("there were %d points", point-1)
				}
				break
			}
			m.Wipe()
			rests, err := m.file.Read()
			gone := !own && errors.Is(err, fs.ErrNotExist) // the boot makes another, and seals by that
			if err == nil {
				err = m.Set(rests)
			}
			if err != nil && !gone {
				t.Fatal(err)
			}
			if is, err := m.SealedBy(alone, m.seal); !is && !gone {
				t.Errorf("own key %v, point %d: the next boot does not verify: %v", own, point, err)
			}
			if _, err := m.join(t, fleet); err != nil {
				t.Error(err)
			}
			if is, err := m.SealedBy(alone, m.seal); !is || len(m.seal) != 32 {
				t.Errorf("own key %v, point %d: in the end: %v %x", own, point, err, m.seal)
			}
		}
	}
}

// TestSealedBy: a seal of two keys is that of each, and of no other; what is not made of whole
// seals is nobody's.
func TestSealedBy(t *testing.T) {
	one, two, other := newMachine(t), newMachine(t), newMachine(t)
	both, err := machinekey.SealBy(alone, &one.Key, &two.Key)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key  *machine
		b    appliance.Binding
		seal []byte
		want bool
	}{
		"the first":      {one, alone, both, true},
		"the second":     {two, alone, both, true},
		"another":        {other, alone, both, false},
		"something else": {one, appliance.Binding{Purpose: "alone", Fields: []string{"2"}}, both, false},
		"cut off":        {one, alone, both[:40], false},
		"none":           {one, alone, nil, false},
	} {
		if is, err := c.key.SealedBy(c.b, c.seal); is != c.want || err != nil {
			t.Errorf("%s: %v %v", name, is, err)
		}
	}
}
