package release

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"holdfast/appliance/fault"
)

// nonceLife is how long a nonce may be used, once.
const nonceLife = time.Minute

// nonces makes nonces and keeps none, so that strangers who ask for many keep nobody out. A
// nonce is the time, random bytes, and a MAC over both and the TLS key that it was given to.
// Only one that came with good evidence is remembered, as used, as long as it is good.
type nonces struct {
	secret [32]byte

	mu   sync.Mutex
	used map[[nonceBytes]byte]time.Time // until when
}

// maxUsed bounds the nonces that are remembered. Only machines with good evidence can come
// near it.
const maxUsed = 100_000

// The parts of a nonce, in bytes: milliseconds since 1970, random, MAC.
const (
	nonceTime   = 8
	nonceRandom = 8
	nonceMAC    = nonceBytes - nonceTime - nonceRandom
)

func newNonces() *nonces {
	n := &nonces{used: map[[nonceBytes]byte]time.Time{}}
	_, _ = rand.Read(n.secret[:]) // never fails (crypto/rand)
	return n
}

func (n *nonces) mac(of []byte, key string) []byte {
	h := hmac.New(sha256.New, n.secret[:])
	_, _ = h.Write(of) // never fails (hash.Hash)
	_, _ = h.Write([]byte(key))
	return h.Sum(nil)[:nonceMAC]
}

// issue gives a nonce to the holder of the key.
func (n *nonces) issue(now time.Time, key string) []byte {
	nonce := binary.BigEndian.AppendUint64(nil, uint64(now.UnixMilli()))
	random := make([]byte, nonceRandom)
	_, _ = rand.Read(random) // never fails (crypto/rand)
	nonce = append(nonce, random...)
	return append(nonce, n.mac(nonce, key)...)
}

// until says until when the nonce is good for the holder of the key; false if it is not.
func (n *nonces) until(now time.Time, nonce []byte, key string) (time.Time, bool) {
	if len(nonce) != nonceBytes || !hmac.Equal(nonce[nonceBytes-nonceMAC:], n.mac(nonce[:nonceBytes-nonceMAC], key)) {
		return time.Time{}, false
	}
	until := time.UnixMilli(int64(binary.BigEndian.Uint64(nonce))).Add(nonceLife)
	return until, !now.After(until) && !now.Before(until.Add(-nonceLife))
}

// good says whether the nonce can be used.
func (n *nonces) good(now time.Time, nonce []byte, key string) bool {
	if _, good := n.until(now, nonce, key); !good {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	_, used := n.used[[nonceBytes]byte(nonce)]
	return !used
}

// use uses the nonce up. Errors: fault.BrokerNonce if it is used up, or too old by now;
// fault.BrokerBusy.
func (n *nonces) use(now time.Time, nonce []byte, key string) error {
	until, good := n.until(now, nonce, key)
	if !good {
		return badNonce()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, used := n.used[[nonceBytes]byte(nonce)]; used {
		return badNonce()
	}
	maps.DeleteFunc(n.used, func(_ [nonceBytes]byte, until time.Time) bool { return now.After(until) })
	if len(n.used) >= maxUsed {
		return &fault.Fault{Code: fault.BrokerBusy, Message: "too many machines ask at once; try again in a minute", RetryAfter: nonceLife}
	}
	n.used[[nonceBytes]byte(nonce)] = until
	return nil
}

func badNonce() error {
	return fault.Errorf(fault.BrokerNonce, "the evidence's nonce is not one that was given to this connection within the last minute, or was used already")
}

// quotas bound how many requests of an address are answered.
type quotas struct {
	perMinute int

	mu sync.Mutex
	of *lru.Cache[netip.Prefix, *rate.Limiter]
}

// maxAddresses bounds the addresses that are remembered. One that is forgotten has its whole
// quota again.
const maxAddresses = 10_000

func newQuotas(perMinute int) *quotas {
	of, _ := lru.New[netip.Prefix, *rate.Limiter](maxAddresses) // fails only for a size below 1
	return &quotas{perMinute: perMinute, of: of}
}

// take takes a request from the quota of its address. It says how long to wait if there is
// none left.
func (q *quotas) take(remote string, now time.Time) (wait time.Duration) {
	from := network(remote)
	q.mu.Lock()
	defer q.mu.Unlock()
	l, known := q.of.Get(from)
	if !known {
		l = rate.NewLimiter(rate.Limit(float64(q.perMinute)/60), q.perMinute)
		q.of.Add(from, l)
	}
	if l.AllowN(now, 1) {
		return 0
	}
	r := l.ReserveN(now, 1)
	wait = r.DelayFrom(now)
	r.CancelAt(now)
	return max(wait, time.Second).Round(time.Second)
}

// network is what counts as one address: of IPv6 the 64 bits that one subscriber has.
func network(remote string) netip.Prefix {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Prefix{} // all that have none share a quota
	}
	address = address.Unmap().WithZone("")
	bits := address.BitLen()
	if address.Is6() {
		bits = 64
	}
	p, _ := address.Prefix(bits) // fails only for more bits than it has
	return p
}
