package appliance

import (
	"context"
	"sync"
	"sync/atomic"

	"holdfast/appliance/fault"
)

// Seals authenticates the rows that other packages keep beside those of the
// domain: users, tokens, requests for approval, settings. Each row has two seals: one
// under the state key of the installation, which is in memory only while the appliance
// is unlocked, and one under the key of this machine ([MachineKey]).
//
// Three states decide what a seal means. A row without a good one is not valid, in all
// of them:
//
//   - There is no installation yet. The machine's seal decides. The first unlock seals
//     all that it finds good, after a person has confirmed it ([Admission]).
//   - The appliance is unlocked. The state key's seal decides.
//   - The appliance is locked, and there is an installation. The machine's seal decides
//     whether the row may be used for what locked appliances allow: fault.Locked. Nobody
//     can seal a row.
//
// While the machine's key is not there, as early in a boot, and no other can decide:
// fault.MachineKey.
//
// Its methods may be called at once from several goroutines.
type Seals struct {
	service  *Service
	settings *Settings
	machine  MachineKey
	// founded says whether the fleet has an installation, which this node has not yet; nil
	// without a fleet.
	founded func(ctx context.Context) (bool, error)
	// identities are the rows that other packages keep.
	identities Identities
	// writing is held by those who write rows, so that none is written without a
	// seal while the first unlock seals all.
	writing   sync.RWMutex
	founding  atomic.Pointer[Keyring] // while the first unlock seals all
	asTheyAre atomic.Bool             // meanwhile: rows are of before there were seals
	installed atomic.Bool             // remembers that there is an installation
}

// Seals gives the seals of this appliance's installation.
func (s *Settings) Seals() *Seals { return &s.seals }

// Installed says whether there is an installation. Key stores say so as well: where
// they are and its row is not, somebody has removed that.
func (s *Seals) Installed(ctx context.Context) (bool, error) {
	if s.installed.Load() {
		return true, nil
	}
	_, err := s.service.store.Installation(ctx)
	// What this node begins itself is not there yet.
	if fault.CodeOf(err) == fault.NotFound && s.founded != nil && s.founding.Load() == nil {
		if founded, err := s.founded(ctx); founded || err != nil {
			return true, err
		}
	}
	if fault.CodeOf(err) == fault.NotFound {
		stores, err := s.service.store.KeyStores(ctx)
		return err != nil || len(stores) > 0, err
	}
	if err != nil {
		return true, err
	}
	s.installed.Store(true)
	return true, nil
}

// Writing is called before a row is sealed, and what it gives when the row is
// written.
func (s *Seals) Writing() (written func()) {
	s.writing.RLock()
	return s.writing.RUnlock
}

// Seal gives the seal of a row. fault.Locked; fault.MachineKey. Without the machine's key
// an unlocked appliance gives the state key's seal alone: the next unlock adds the other.
func (s *Seals) Seal(ctx context.Context, b Binding) ([]byte, error) {
	var ring Keyring
	if founding := s.founding.Load(); founding != nil {
		ring = *founding
	} else {
		var err error
		if ring, err = s.ring(ctx); err != nil {
			return nil, err
		}
	}
	// What the first unlock seals keeps the machine's seal of before: if it is interrupted,
	// there is no installation.
	mac, noKey := s.machineMAC(b, ring != nil && s.founding.Load() == nil)
	if ring == nil {
		if noKey != nil {
			return nil, noKey
		}
		return joinSeals(mac, nil), nil
	}
	state, err := ring.Seal(b, nil)
	if err != nil || noKey != nil {
		return state, err
	}
	return joinSeals(mac, state), nil
}

// Verify says whether a row is valid. fault.Tampered if it has no seal, or that of
// another row; fault.Locked if it has this machine's, and there is no more to be told;
// fault.MachineKey.
func (s *Seals) Verify(ctx context.Context, b Binding, seal []byte) error {
	ring, locked := s.ring(ctx)
	if ring != nil {
		_, state := splitSeals(seal)
		return ring.Verify(b, state)
	}
	if locked != nil && fault.CodeOf(locked) != fault.Locked {
		return locked
	}
	if err := s.verifyByMachine(b, seal, locked != nil); err != nil {
		return err
	}
	return locked
}

// ring gives the keyring with the state key; nil while there is no installation.
func (s *Seals) ring(ctx context.Context) (Keyring, error) {
	v, locked := s.service.view()
	if locked == nil {
		return v.ring, nil
	}
	if h := s.service.held.Load(); h != nil && !awaitsInstallation(h.why) { // people sign in to decide
		return h.ring, nil
	}
	installed, err := s.Installed(ctx)
	if err != nil {
		return nil, err
	}
	if installed {
		return nil, locked
	}
	return nil, nil
}

// shared gives the keyring for what all unlocked nodes of the installation share.
// fault.Locked while the appliance is locked, held, or has no installation: there is no
// key then that another node has too.
func (s *Seals) shared() (Keyring, error) {
	v, err := s.service.view()
	if err != nil {
		return nil, fault.Wrapf(fault.Locked, err, "the appliance has no key now that all nodes have")
	}
	return v.ring, nil
}

// SealShared seals what any unlocked node of the installation opens
// ([Keyring.SealShared]). fault.Locked.
func (s *Seals) SealShared(b Binding, secret []byte) ([]byte, error) {
	ring, err := s.shared()
	if err != nil {
		return nil, err
	}
	return ring.SealShared(b, secret)
}

// OpenShared opens it. fault.Locked; fault.Tampered.
func (s *Seals) OpenShared(b Binding, sealed []byte) ([]byte, error) {
	ring, err := s.shared()
	if err != nil {
		return nil, err
	}
	return ring.OpenShared(b, sealed)
}

// MACShared gives 32 bytes that every unlocked node has ([Keyring.MACShared]).
// fault.Locked.
func (s *Seals) MACShared(b Binding) ([]byte, error) {
	ring, err := s.shared()
	if err != nil {
		return nil, err
	}
	return ring.MACShared(b)
}

// Held gives the reason for which the state is not served, where its rows may be those of
// an earlier state, or were changed: people may sign in by them to accept it, and that is
// all. Nil otherwise.
func (s *Seals) Held() error {
	if h := s.service.held.Load(); h != nil && IsHeld(h.why) {
		return h.why
	}
	return nil
}

// sealAll seals all rows that are good with a keyring that is not live yet, and then has
// the installation written. Until that is done no other row is written. Rows of before
// there were seals it takes as they are, and nobody is asked: nobody can sign in then.
// fault.AdmissionUnconfirmed if the rows are not those that a person has confirmed.
func (s *Seals) sealAll(ctx context.Context, ring Keyring, asTheyAre bool, c Confirmation, write func() error) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.asTheyAre.Store(asTheyAre)
	s.founding.Store(&ring)
	defer s.founding.Store(nil)
	settings, err := s.settings.sealSettings(ctx, asTheyAre)
	if err != nil {
		return err
	}
	set := func(name, value string) error { return s.settings.setSetting(ctx, name, value) }
	all, err := s.identities.SealAll(ctx, set)
	if err != nil {
		return err
	}
	all = append(all, settings...)
	if !asTheyAre {
		err = mayAdmit(all, c)
	}
	c.Digest = digestOf(all)
	if err == nil && c.By == "" && !asTheyAre {
		c.By = nobody
	}
	if err == nil {
		err = s.settings.setConfirmation(ctx, c)
	}
	if err == nil {
		err = s.identities.Sealed(ctx, all, c)
	}
	if err != nil {
		return err
	}
	if err := write(); err != nil {
		return err
	}
	s.installed.Store(true)
	return nil
}

// Admit says whether the first unlock may seal a row: this machine has sealed it, or it
// is of before there were seals. fault.Tampered if not.
func (s *Seals) Admit(b Binding, seal []byte) error {
	if s.asTheyAre.Load() {
		return nil
	}
	return s.verifyByMachine(b, seal, false)
}

// alone does something while nobody writes a row that was sealed before.
func (s *Seals) alone(f func() error) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return f()
}
