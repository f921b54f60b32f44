package identity

import (
	"context"
	"crypto/sha256"
	"sync"

	"holdfast/appliance/fault"
)

// SetupHash asks for the SHA-256 of a setup code that was made outside of the
// appliance; nil if there is none.
type SetupHash func(context.Context) *[sha256.Size]byte

// Welcome says once how the first administrator comes in: by the code whose hash
// one of the sources gives, or else by one that is made. With a user it says
// nothing. Its methods may be called at once from several goroutines.
type Welcome struct {
	// Directory has the users.
	Directory *Directory
	// Unlocked says whether rows can be verified.
	Unlocked func() bool
	// Tell is given the code; it is empty if its hash was given.
	Tell func(code string)

	mu    sync.Mutex
	later func(context.Context) error
}

// Say asks the sources in order and tells the code. While nobody can tell whether
// setup is over, it leaves that to [Welcome.SayLater].
func (w *Welcome) Say(ctx context.Context, sources ...SetupHash) error {
	open, err := w.Directory.SetupOpen(ctx)
	if code := fault.CodeOf(err); code == fault.Locked || code == fault.MachineKey {
		w.mu.Lock()
		w.later = func(ctx context.Context) error { return w.Say(ctx, sources...) }
		w.mu.Unlock()
		if w.Unlocked() { // meanwhile
			return w.SayLater(ctx)
		}
		return nil
	}
	if err != nil {
		return err
	}
	for _, source := range sources {
		if !open {
			break
		}
		if given := source(ctx); given != nil {
			w.Directory.AcceptSetupCode(*given)
			break
		}
	}
	code, err := w.Directory.SetupCode(ctx)
	if err == nil && open && w.Tell != nil {
		w.Tell(code)
	}
	return err
}

// SayLater does what Say could not do before the keys were unlocked.
func (w *Welcome) SayLater(ctx context.Context) error {
	w.mu.Lock()
	say := w.later
	w.later = nil
	w.mu.Unlock()
	if say == nil {
		return nil
	}
	return say(ctx)
}
