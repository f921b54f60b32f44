package web

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/appliance"
)

// Positions is how far this node is in the fleet's log of changes; the store is one.
type Positions interface {
	Position() appliance.Position
	// Written gives the number of the last change that is durable here: that of each change
	// that has returned, which Position may not have reached.
	Written() uint64
	// CatchUp takes over what the log has more. fault.DatabaseAway.
	CatchUp(ctx context.Context) error
}

// PositionHeader has the number of the last change that an answer was made after. Who sends
// it with the next request sees that change at whichever node answers.
const PositionHeader = "Holdfast-Position"

// positionCookie has the same for a browser. It is no secret, and decides nothing.
const (
	positionCookie = "__Host-holdfast-position"
	positionAge    = 10 * time.Minute
)

// catchUpTime bounds how long a request waits for changes that its sender has seen.
const catchUpTime = 2 * time.Second

// follower has requests answered after the changes that their senders have seen.
type follower struct {
	positions Positions

	turn chan struct{} // has room while no changes are taken over
	mu   sync.Mutex
	next *catchUp // that is not begun; nil if there is none
}

// catchUp is one look at the log, which all wait for who came before it began.
type catchUp struct{ done chan struct{} }

// follow gives a handler that answers after the changes that the sender has seen, and says of
// which change the answer is. Without a fleet it is the same handler.
func follow(p Positions, next http.Handler) http.Handler {
	if p == nil {
		return next
	}
	f := &follower{positions: p, turn: make(chan struct{}, 1)}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen := seenPosition(r)
		f.reach(r.Context(), seen)
		a := &positionedAnswer{ResponseWriter: w, positions: p, seen: seen}
		next.ServeHTTP(a, r)
		a.say()
	})
}

// seenPosition gives the number that a request says its sender has seen; 0 if it says none.
func seenPosition(r *http.Request) uint64 {
	text := r.Header.Get(PositionHeader)
	if k, err := r.Cookie(positionCookie); text == "" && err == nil {
		text = k.Value
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// reach waits until this node has the change with that number. One look at the log that began
// after the request came is enough: what the log does not have then was never made, or is
// withheld from this node, and the answer says how far it is. While the log cannot be read,
// peers may bring the change; it waits for that no longer than catchUpTime.
func (f *follower) reach(ctx context.Context, number uint64) {
	if f.positions.Position().Number >= number {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, catchUpTime)
	defer cancel()
	done := f.look().done
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for f.positions.Position().Number < number {
		select {
		case <-done:
			if f.positions.Written() < number {
				return
			}
			done = nil // it is here, and about to be in effect
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look begins a look at the log, or gives one that others have asked for and that is not begun.
// So there is one at a time, however many requests name a change that there is not.
func (f *follower) look() *catchUp {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next != nil {
		return f.next
	}
	c := &catchUp{done: make(chan struct{})}
	f.next = c
	go func() {
		f.turn <- struct{}{}
		defer func() { <-f.turn }()
		f.mu.Lock()
		f.next = nil
		f.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), catchUpTime)
		defer cancel()
		if f.positions.CatchUp(ctx) == nil {
			close(c.done)
		}
	}()
	return c
}

// positionedAnswer says of which change an answer is, when its header is written.
type positionedAnswer struct {
	http.ResponseWriter
	positions Positions
	seen      uint64
	said      bool
}

// say sets the header, and the cookie of pages that no cache keeps.
func (a *positionedAnswer) say() {
	if a.said {
		return
	}
	a.said = true
	n := a.positions.Written()
	h := a.Header()
	h.Set(PositionHeader, strconv.FormatUint(n, 10))
	if n > a.seen && strings.Contains(h.Get("Cache-Control"), "no-store") {
		http.SetCookie(a, &http.Cookie{Name: positionCookie, Value: strconv.FormatUint(n, 10), Path: "/", MaxAge: int(positionAge.Seconds()), Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
	}
}

func (a *positionedAnswer) WriteHeader(status int) {
	a.say()
	a.ResponseWriter.WriteHeader(status)
}

func (a *positionedAnswer) Write(p []byte) (int, error) {
	a.say()
	return a.ResponseWriter.Write(p)
}

// FlushError implements what [http.ResponseController] asks for.
func (a *positionedAnswer) FlushError() error {
	a.say()
	return http.NewResponseController(a.ResponseWriter).Flush()
}

// Hijack implements [http.Hijacker]: who takes the connection over writes the header itself.
func (a *positionedAnswer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	a.say()
	return http.NewResponseController(a.ResponseWriter).Hijack()
}

// Unwrap lets [http.ResponseController] find the rest.
func (a *positionedAnswer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
