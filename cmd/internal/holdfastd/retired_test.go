package holdfastd

import (
	"context"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/appliance/fleet"
	"holdfast/cmd/internal/daemon"
)

// hookRing does something before the HSM names another copy.
type hookRing struct {
	appliance.Keyring
	do func()
}

func (r *hookRing) CreateSealedObject(ctx context.Context, o *appliance.SealedObject, reach appliance.Reach) error {
	r.do()
	return r.Keyring.CreateSealedObject(ctx, o, reach)
}

// otherNode is another node of the fleet, which runs.
type otherNode struct {
	*appliance.Appliance
	t *testing.T
}

func (m *machine) startOther() *otherNode {
	o := *m
	o.counter = nil
	mv := o.mover(&fuse{t: m.t})
	mv.cfg.State.Dir = m.fresh()
	rows, err := mv.openAll(m.t.Context(), daemon.SharedFile, daemon.MachineFile)
	if err != nil {
		m.t.Fatal(err)
	}
	a := mv.appliance(rows, nil)
	if err := a.Unlock(m.t.Context(), mv.ring(), nil); err != nil {
		m.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(m.t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); a.Run(ctx) }()
	m.t.Cleanup(func() {
		stop()
		<-ended
		a.Lock()
		if err := rows.close(); err != nil {
			m.t.Error(err)
		}
	})
	return &otherNode{a, m.t}
}

// refuses checks that changes are refused, whether the node knows of the move already or not.
func (n *otherNode) refuses() {
	n.t.Helper()
	u, _ := appliance.ParseUsage("encrypt,decrypt")
	for what, change := range map[string]func(context.Context) error{
		"a block": func(ctx context.Context) error {
			_, err := n.Block(ctx, appliance.BlockTarget{KeyStore: "p", KeyID: "k"}, "compromised", "alice")
			return err
		},
		"the end of the block of everything": func(ctx context.Context) error {
			return n.Unblock(ctx, appliance.BlockTarget{Everything: true})
		},
		"a key": func(ctx context.Context) error {
			_, err := n.CreateKey(ctx, "p", appliance.NewExternalKey{ID: "late", Usage: u, Custody: appliance.CustodyCached})
			return err
		},
		"a setting": func(ctx context.Context) error {
			return n.SetSetting(ctx, appliance.SettingSetup, appliance.SettingDone)
		},
	} {
		if err := change(n.t.Context()); fault.CodeOf(err) != fault.Conflict {
			n.t.Errorf("%s in a fleet that is moved elsewhere: %v", what, err)
		}
	}
}

// TestRetired: a node that still runs takes no change once the rows of its fleet are taken, so none
// is lost; and the new place counts only when it has stopped to serve.
func TestRetired(t *testing.T) {
	m := newMachine(t, kind{})
	if err := m.run(&fuse{}, "fleet"); err != nil {
		t.Fatal(err)
	}
	n := m.startOther()
	mv := m.mover(&fuse{t: t, dir: m.dir})
	mv.cfg.Fleet.Grace = 0 // the default
	ring, named := mv.ring, false
	mv.ring = func() appliance.Keyring {
		return &hookRing{ring(), func() {
			if !named {
				named = true
				n.refuses()
			}
		}}
	}
	waited := time.Duration(0)
	mv.pause = func(_ context.Context, d time.Duration) error {
		waited += d
		if !named || m.there(daemon.SingleFile) {
			t.Error("it waits before the HSM names the new place, or when that counts")
		}
		n.refuses()
		return nil
	}
	if _, err := mv.toSingle(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.refuses()
	if want := fleet.StopsWithin(time.Minute); waited != want || want <= time.Minute {
		t.Errorf("it waited %s for nodes to stop, want %s", waited, want)
	}
	single, err := mv.openAll(t.Context(), daemon.SingleFile)
	if err != nil {
		t.Fatal(err)
	}
	defer single.close()
	s := mv.appliance(single, nil)
	if err := s.Unlock(t.Context(), ring(), nil); err != nil {
		t.Fatal(err)
	}
	defer s.Lock()
	client := *m.client
	client.T, client.Appliance = t, s
	client.OK(appliancetest.Decrypt("k", m.sealed))
	if _, err := s.Block(t.Context(), appliance.BlockTarget{KeyStore: "p", KeyID: "k"}, "compromised", "alice"); err != nil {
		t.Errorf("the new place takes no change: %v", err)
	}
}
