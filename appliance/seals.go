package appliance

import (
	"context"
	"sync"
	"sync/atomic"

	"holdfast/appliance/fault"
)

// Seals authenticates the rows that other packages keep beside those of the
// domain: users, tokens, requests for approval, settings. It uses the state key
// of the installation, which is in memory only while the appliance is unlocked.
//
// Three states decide what a seal means:
//
//   - There is no installation yet. Nobody can seal a row, so rows are taken as
//     they are. The first unlock seals all that it finds ([Options.SealAll]).
//   - The appliance is unlocked. A row whose seal is missing or wrong is not valid.
//   - The appliance is locked, and there is an installation. Nobody can tell
//     whether a row is valid, and nobody can seal one: fault.Locked.
//
// Its methods may be called at once from several goroutines.
type Seals struct {
	service  *Service
	settings *Settings
	sealRows func(ctx context.Context, set func(name, value string) error) error
	// writing is held by those who write rows, so that none is written without a
	// seal while the first unlock seals all.
	writing   sync.RWMutex
	founding  atomic.Pointer[Keyring] // while the first unlock seals all
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

// Seal gives the seal of a row; nil without an error while there is no
// installation. fault.Locked.
func (s *Seals) Seal(ctx context.Context, b Binding) ([]byte, error) {
	if ring := s.founding.Load(); ring != nil {
		return (*ring).Seal(b, nil)
	}
	ring, err := s.ring(ctx)
	if ring == nil || err != nil {
		return nil, err
	}
	return ring.Seal(b, nil)
}

// Verify says whether a row is valid. fault.Tampered if its seal is missing or of
// another row; fault.Locked.
func (s *Seals) Verify(ctx context.Context, b Binding, seal []byte) error {
	ring, err := s.ring(ctx)
	if ring == nil || err != nil {
		return err
	}
	return ring.Verify(b, seal)
}

// ring gives the keyring with the state key; nil while there is no installation.
func (s *Seals) ring(ctx context.Context) (Keyring, error) {
	v, locked := s.service.view()
	if locked == nil {
		return v.ring, nil
	}
	if h := s.service.held.Load(); h != nil { // people sign in to accept the state
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

// sealAll seals all rows with a keyring that is not live yet, and then has the
// installation written. Until that is done no other row is written.
func (s *Seals) sealAll(ctx context.Context, ring Keyring, write func() error) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.founding.Store(&ring)
	defer s.founding.Store(nil)
	if err := s.settings.sealSettings(ctx); err != nil {
		return err
	}
	set := func(name, value string) error { return s.settings.setSetting(ctx, name, value) }
	if err := s.sealRows(ctx, set); err != nil {
		return err
	}
	if err := write(); err != nil {
		return err
	}
	s.installed.Store(true)
	return nil
}

// alone does something while nobody writes a row that was sealed before.
func (s *Seals) alone(f func() error) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return f()
}
