package fleet

import (
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// maxCallers bounds the addresses that are counted apart. Above it all others share
	// one allowance.
	maxCallers = 256
	// callerKept is how long the count of an address is kept that does not call.
	callerKept = time.Minute
)

// limits are how often addresses may call.
type limits struct {
	perSecond, burst int

	mu      sync.Mutex
	callers map[string]*caller
}

// caller is an address that calls.
type caller struct {
	limit *rate.Limiter
	last  time.Time
}

// allowed takes a call from the allowance of its address.
func (l *limits) allowed(address string, now time.Time) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.callers == nil {
		l.callers = map[string]*caller{}
	}
	c := l.callers[host]
	if c == nil && len(l.callers) >= maxCallers {
		for other, c := range l.callers {
			if now.Sub(c.last) > callerKept {
				delete(l.callers, other)
			}
		}
		if len(l.callers) >= maxCallers {
			host = "" // all others
			c = l.callers[host]
		}
	}
	if c == nil {
		c = &caller{limit: rate.NewLimiter(rate.Limit(l.perSecond), l.burst)}
		l.callers[host] = c
	}
	c.last = now
	return c.limit.AllowN(now, 1)
}
