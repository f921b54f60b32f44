package appliance

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// lastUsed knows when each credential last authenticated a request.
type lastUsed struct {
	news  chan struct{} // has one when a credential was used that was not for a minute
	mu    sync.Mutex
	times map[string]*credentialUse
}

type credentialUse struct {
	used   atomic.Int64 // Unix milliseconds; 0 if not since the start
	stored int64        // the same, as of the last write
}

// of gives the place where the last use of a credential is noted.
func (l *lastUsed) of(accessKeyID string) *atomic.Int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.times == nil {
		l.times = map[string]*credentialUse{}
	}
	if l.times[accessKeyID] == nil {
		l.times[accessKeyID] = &credentialUse{}
	}
	return &l.times[accessKeyID].used
}

// wake has the uses stored soon, so that other nodes and a person who waits for the first use
// of a credential see it.
func (l *lastUsed) wake() {
	select {
	case l.news <- struct{}{}:
	default:
	}
}

// at gives the last use since the start; zero if there was none.
func (l *lastUsed) at(accessKeyID string) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if u := l.times[accessKeyID]; u != nil && u.used.Load() != 0 {
		return time.UnixMilli(u.used.Load()).UTC()
	}
	return time.Time{}
}

// collectUses is for how long uses are collected after the first one before they are written
// together. A person looks at them before another credential is deactivated, and can wait that
// long; each write is a change of the log, of which the fleet has at most six a minute and node
// by this.
const collectUses = 10 * time.Second

// keepLastUsed writes the uses each minute, and some seconds after one of a credential that
// was not used for a minute.
func (s *Service) keepLastUsed(ctx context.Context) {
	tick := time.NewTicker(lastUsedEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.used.news:
			collected := time.NewTimer(collectUses)
			select {
			case <-ctx.Done():
				collected.Stop()
				return
			case <-collected.C:
			}
			select { // those that came meanwhile are written now
			case <-s.used.news:
			default:
			}
		}
		s.storeLastUsed(ctx)
	}
}

// storeLastUsed writes the uses that are not stored yet.
func (s *Service) storeLastUsed(ctx context.Context) {
	news := s.used.unstored()
	if len(news) == 0 {
		return
	}
	if err := s.store.RecordCredentialUse(ctx, news); err != nil { // the log may take seconds; views are built meanwhile
		s.log.Warn("the last use of credentials could not be stored", "error", err)
		return
	}
	s.used.wereStored(news)
}

// unstored gives the uses that are not stored yet.
func (l *lastUsed) unstored() map[string]time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	news := map[string]time.Time{}
	for id, u := range l.times {
		if ms := u.used.Load(); ms > u.stored {
			news[id] = time.UnixMilli(ms).UTC()
		}
	}
	return news
}

// wereStored notes what was written.
func (l *lastUsed) wereStored(news map[string]time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, t := range news {
		u := l.times[id]
		u.stored = max(u.stored, t.UnixMilli())
	}
}
