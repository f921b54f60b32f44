package appliance

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/appliance/fault"
)

// The sizes of the blocks in which encryptions are reserved. A key that is loaded from the
// store starts small, so that little is wasted on keys that are used once; each further block
// is larger, up to usualBlock. A busy key has blocks for blockTime at its present rate, up to
// maxBlock: the next one is reserved when half of a block is used, so that half of blockTime is
// left whenever the store stops. That is twice the default of fleet.grace.
const (
	firstBlock = 64
	// nodeBlock is the first block of a node of a fleet, so that a key whose use has just
	// begun goes on through a pause of the database.
	nodeBlock  = 8192
	usualBlock = 65536
	maxBlock   = 1 << 20
	blockTime  = 4 * time.Minute
)

// How long the store may take for a block that nobody waits for yet, and the pause after one
// that it did not give.
const (
	reserveTime  = 10 * time.Second
	reservePause = time.Second
)

// reserve is the encryptions of a key's current version that this node has reserved.
type reserve struct {
	// left is how many are not used; low is how many are left when the next block is reserved.
	left, low atomic.Int64
	// ahead is taken by what reserves the next block in the background.
	ahead atomic.Bool
	// pause is when that is tried again, in nanoseconds since begin.
	pause atomic.Int64

	// turn is taken by who reserves a block or rotates the key. The rest is under it: the size
	// of the last block and when it was reserved, how many encryptions all nodes have reserved
	// of the version, and the key as it is after its rotation.
	turn    turn
	block   uint64
	at      time.Duration // since begin
	total   uint64
	rotated *liveKey
}

// turn is a mutex that one waits for until a context ends. The zero value is ready. It has a
// channel only while somebody waits: of a million keys few reserve at once.
type turn struct {
	mu      sync.Mutex
	taken   bool
	waiting int
	handed  chan struct{} // has one when the turn was handed to one of those who wait
}

// take waits for the turn; false if the context ended before.
func (t *turn) take(ctx context.Context) bool {
	t.mu.Lock()
	if !t.taken {
		t.taken = true
		t.mu.Unlock()
		return true
	}
	if t.waiting++; t.handed == nil {
		t.handed = make(chan struct{}, 1)
	}
	handed := t.handed
	t.mu.Unlock()
	select {
	case <-handed:
		t.leave()
		return true
	case <-ctx.Done():
	}
	t.leave()
	select {
	case <-handed: // meanwhile, and perhaps nobody else waits
		t.giveBack()
	default:
	}
	return false
}

// leave ends the waiting of one.
func (t *turn) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting--; t.waiting == 0 {
		t.handed = nil
	}
}

// giveBack hands the turn to one of those who wait.
func (t *turn) giveBack() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting > 0 {
		t.handed <- struct{}{}
		return
	}
	t.taken = false
}

// begin is a moment of the monotonic clock.
var begin = time.Now()

// count takes one encryption from those reserved for the key's current version. Where half of
// a block is used it has the next one reserved in the background, so that requests do not wait
// for the store. If there are none left it reserves a block, or rotates the key and counts on
// its new version. It gives the key to encrypt with.
func (e *Endpoint) count(ctx context.Context, key *liveKey) (*liveKey, error) {
	for {
		left := key.reserve.left.Add(-1)
		if left >= 0 {
			if left < key.reserve.low.Load() {
				e.reserveAhead(ctx, key)
			}
			return key, nil
		}
		next, done, err := e.reserve(ctx, key)
		if done || err != nil {
			return next, err
		}
		key = next
	}
}

// reserveAhead reserves the next block in the background, unless that is under way, has just
// failed, or the version has done its encryptions: then who needs one waits.
func (e *Endpoint) reserveAhead(ctx context.Context, key *liveKey) {
	r := &key.reserve
	if time.Since(begin) < time.Duration(r.pause.Load()) || r.ahead.Swap(true) {
		return
	}
	go func() {
		defer r.ahead.Store(false)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reserveTime)
		defer cancel()
		if !r.turn.take(ctx) {
			return
		}
		defer r.turn.giveBack()
		if r.rotated != nil || r.total >= e.service.rotateAfter || r.left.Load() >= r.low.Load() {
			return
		}
		if err := e.reserveBlock(ctx, key, 0); err != nil {
			r.pause.Store(int64(time.Since(begin) + reservePause))
			e.service.log.Warn("encryptions could not be reserved ahead; it is tried again", "key_store", e.store.Name, "key_id", key.ID, "left", r.left.Load(), "error", err)
		}
	}()
}

// reserveBlock reserves a block, of which taken encryptions are used at once. The caller has
// the turn.
func (e *Endpoint) reserveBlock(ctx context.Context, key *liveKey, taken uint64) error {
	r, s, now := &key.reserve, e.service, time.Since(begin)
	n := uint64(min(max(r.block*8, s.firstBlock), usualBlock))
	if r.block >= usualBlock { // used long enough to tell how busy the key is
		used := int64(r.block) - max(0, r.left.Load())
		rate := float64(max(0, used)) / max((now-r.at).Seconds(), 0.001)
		n = max(n, uint64(min(rate*blockTime.Seconds(), float64(r.block*8), maxBlock)))
	}
	if r.total < s.rotateAfter {
		n = min(n, s.rotateAfter-r.total)
	}
	total, err := s.store.ReserveEncryptions(ctx, key.KeyStore, key.ID, key.CurrentVersion, n)
	if err != nil {
		return err
	}
	for {
		left := r.left.Load()
		if r.left.CompareAndSwap(left, max(0, left)+int64(n-taken)) { // who found none has taken it below 0
			break
		}
	}
	r.block, r.at, r.total = n, now, total
	r.low.Store(int64(n / 2))
	return nil
}

// reserve takes one encryption after having reserved a block; or it is not done and
// gives the key to count on: the rotated one, or the same if others were faster.
func (e *Endpoint) reserve(ctx context.Context, key *liveKey) (next *liveKey, done bool, err error) {
	r, s := &key.reserve, e.service
	if !r.turn.take(ctx) {
		return nil, false, fault.Wrapf(fault.Timeout, ctx.Err(), "no encryptions could be reserved in time")
	}
	defer r.turn.giveBack()
	if r.rotated != nil {
		return r.rotated, false, nil
	}
	if r.left.Load() > 0 {
		return key, false, nil
	}
	if r.total >= s.rotateAfter {
		rotated, err := s.rotateExhausted(ctx, e.store.ID, key.ID, key.CurrentVersion)
		if err == nil {
			r.rotated = rotated
			return rotated, false, nil
		}
		if r.total+maxBlock > maxEncryptions {
			return nil, false, fault.Wrapf(fault.Internal, err, "version %d of the key has done as many encryptions as AES-GCM allows and could not be rotated", key.CurrentVersion)
		}
		s.log.Error("a key is due for rotation and could not be rotated; it still serves", "key_store", e.store.Name, "key_id", key.ID,
			"version", key.CurrentVersion, "encryptions", r.total, "error", err)
	}
	if err := e.reserveBlock(ctx, key, 1); err != nil {
		return nil, false, err
	}
	return key, true, nil
}

// rotateExhausted rotates a key whose version has done all its encryptions. It
// does nothing if the version is not the current one any more. A request of KMS
// waits for it, so it does not wait for an administrator's operation.
func (a *Administration) rotateExhausted(ctx context.Context, keyStore, id string, version uint32) (*liveKey, error) {
	if !a.admin.TryLock() {
		return nil, fault.Errorf(fault.Changed, "an administrator's operation is under way")
	}
	defer a.admin.Unlock()
	v, err := a.service.view()
	if err != nil {
		return nil, err
	}
	// The record is first: what cannot be recorded is not done.
	name := keyStore
	if e := v.byID[keyStore]; e != nil {
		name = e.store.Name
	}
	if err := a.rotating(ctx, name, id, version+1); err != nil {
		return nil, err
	}
	key, err := a.rotate(ctx, v.ring, keyStore, id, version, nil)
	if err != nil {
		return nil, err
	}
	a.log.Info("a key was rotated: its version had done its encryptions", "key_store_id", keyStore, "key_id", id, "version", key.CurrentVersion)
	return a.service.loadKey(ctx, v.ring, keyStore, id)
}
