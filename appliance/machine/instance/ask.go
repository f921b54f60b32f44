package instance

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"sync"
	"time"
)

const (
	// userDataTime bounds how long user data are waited for.
	userDataTime = 3 * time.Second
	// pause is the first pause between questions, which doubles for the instance's
	// identity; tries is how often that is asked for.
	pause = 250 * time.Millisecond
	tries = 10
)

// AskSetup asks for user data that have the hash of a setup code, for 3 s at most;
// nil if there are none. What fails is logged, and nothing depends on it.
func (m *Metadata) AskSetup(ctx context.Context, log *slog.Logger) *[sha256.Size]byte {
	if d := m.AskUserData(ctx, userDataTime, log); d != nil {
		return d.Setup
	}
	return nil
}

// AskUserData asks for user data for as long as atMost; nil if there are none that can be
// used. What fails is logged.
func (m *Metadata) AskUserData(ctx context.Context, atMost time.Duration, log *slog.Logger) *UserData {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	for {
		text, err := m.UserData(ctx)
		if err == nil {
			d, err := ParseUserData(text)
			if err == nil {
				return d
			}
			log.Warn("user data are ignored", "error", err)
			return nil
		}
		if errors.Is(err, ErrNone) {
			return nil
		}
		if wait(ctx, pause) != nil {
			log.Warn("user data are unknown", "error", err)
			return nil
		}
	}
}

// AskIdentity asks who the instance is, again and again for some minutes; nil if it
// remains unknown. What fails is logged, and nothing depends on it.
func (m *Metadata) AskIdentity(ctx context.Context, log *slog.Logger) *Identity {
	next := pause
	for try := range tries {
		who, err := m.Identity(ctx)
		if err == nil {
			log.Info("the instance, as its metadata service tells it", "id", who.ID, "type", who.Type, "image", who.Image, "zone", who.Zone, "account", who.Account)
			return who
		}
		if try == 0 {
			log.Warn("the instance is unknown", "error", err)
		}
		if wait(ctx, next) != nil {
			return nil
		}
		next *= 2
	}
	return nil
}

const (
	// keptIdentity is how long the signed identity is kept, and keptFailure how long it is
	// not asked for again after it could not be had.
	keptIdentity = time.Hour
	keptFailure  = 10 * time.Second
)

// SignedIdentity gives a function that asks for the identity as EC2 has signed it, and keeps
// it for an hour: the document can change while the instance runs. It gives nil if there is
// none. What fails is logged.
func (m *Metadata) SignedIdentity(log *slog.Logger) func(ctx context.Context) []byte {
	var (
		mu    sync.Mutex
		kept  []byte
		until time.Time
	)
	return func(ctx context.Context) []byte {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.Before(until) {
			return kept
		}
		signed, err := m.Signed(ctx)
		if err != nil {
			log.Warn("evidence has no instance identity document", "error", err)
			until = time.Now().Add(keptFailure)
			return kept // which is an old one, if there was one
		}
		kept, until = signed, time.Now().Add(keptIdentity)
		return kept
	}
}

// ReadSetupFile reads the file with the hash of a setup code; nil if the path is
// empty, or the file cannot be read, which is logged.
func ReadSetupFile(path string, log *slog.Logger) *[sha256.Size]byte {
	if path == "" {
		return nil
	}
	sum, err := ReadSetup(path)
	if err != nil {
		log.Warn("no hash of a setup code: the file admin.setup_code is ignored", "error", err)
		return nil
	}
	return &sum
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
