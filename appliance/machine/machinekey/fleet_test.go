package machinekey_test

import (
	"bytes"
	"context"
	"errors"
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
	return machinekey.Join(t.Context(), &m.Key, m.file, fleet, func(context.Context) error { m.again++; return nil })
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
	if taken, err := second.join(t, fleet); err != nil || !taken || second.ID() != id || second.again != 1 {
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
	if taken, err := m.join(t, fleet); err != nil || !taken || m.again != 1 {
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
