package boot

import (
	"context"
	"encoding/hex"
	"log/slog"
	"sync"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/attest"
	"holdfast/attest/release"
)

var _ appliance.HeadAnchor = (*BrokerAnchor)(nil)

// BrokerAnchor has the broker know the newest state that this machine serves: the evidence
// that it is shown names it. It may be away: it holds up a start for at most askWithin, and
// a change never.
type BrokerAnchor struct {
	broker release.FromBroker
	log    *slog.Logger
	tell   chan struct{} // holds a signal when there is something to tell

	mu    sync.Mutex
	asked bool
	known *release.KnownState // nil if it knows none
	err   error               // why it could not be asked last
}

const (
	// askWithin bounds a question to the broker.
	askWithin = 5 * time.Second
	// tellEvery is the least time between two times that the broker is told, or asked again
	// after a failure. Each takes a quote of the TPM.
	tellEvery = time.Minute
)

// NewBrokerAnchor gives the anchor that a broker is. Collect makes evidence.
func NewBrokerAnchor(b *BrokerRelease, collect func(ctx context.Context, nonce, tlsKey, releaseKey []byte) (*attest.Evidence, error), log *slog.Logger) *BrokerAnchor {
	return &BrokerAnchor{broker: release.FromBroker{URL: b.URL, Pin: b.Pin, Machine: b.Machine, Collect: collect, Timeout: askWithin}, log: log, tell: make(chan struct{}, 1)}
}

// Name implements [appliance.HeadAnchor].
func (a *BrokerAnchor) Name() string { return "broker" }

// Seen implements [appliance.HeadAnchor]. It asks the broker the first time, and then gives
// what it answered last.
func (a *BrokerAnchor) Seen(ctx context.Context) (seen appliance.SeenHead, err error) {
	a.mu.Lock()
	asked := a.asked
	a.mu.Unlock()
	if !asked {
		a.ask(ctx)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.err != nil:
		return seen, fault.Wrapf(fault.AnchorAway, a.err, "the broker does not say which state it knows: %s", fault.ReasonOf(a.err))
	case a.known == nil:
		return seen, fault.Errorf(fault.NotFound, "the broker knows no state of this machine")
	}
	return appliance.SeenHead{Since: a.known.Since, Head: appliance.Head{Sequence: a.known.Sequence, Digest: hex.EncodeToString(a.known.Digest), At: a.known.At}}, nil
}

// Tell implements [appliance.HeadAnchor]: [BrokerAnchor.Run] does it.
func (a *BrokerAnchor) Tell(appliance.Head) {
	select {
	case a.tell <- struct{}{}:
	default:
	}
}

// Run tells the broker what there is to tell until ctx ends, and asks again after a failure.
func (a *BrokerAnchor) Run(ctx context.Context) {
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-again:
		case <-a.tell:
		}
		again = nil
		if !a.ask(ctx) {
			again = time.After(tellEvery)
		}
		select { // not more often
		case <-ctx.Done():
			return
		case <-time.After(tellEvery):
		}
	}
}

// ask shows the broker evidence, and says whether it answered.
func (a *BrokerAnchor) ask(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	known, err := a.broker.State(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil && (a.err == nil || !a.asked) {
		a.log.Warn("the broker cannot be told which state is served, and does not say which it knows; the state is served without it", "error", err)
	}
	if a.asked, a.err = true, err; err == nil {
		a.known = known
	}
	return err == nil
}
