// Package changelogtest is for tests of and with a log of changes: [Run] is what every
// implementation of [appliance.ChangeLog] must pass, and [Memory] is one without a
// database, for tests of what uses a log.
package changelogtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// MaxPart bounds a part of a snapshot, in bytes.
const MaxPart = 1 << 20

// Log is what an implementation offers.
type Log interface {
	appliance.ChangeLog
	appliance.NodeHints
	// Abandon removes all changes and snapshots; fault.Exists if an installation was begun.
	Abandon(ctx context.Context) error
}

// Run tests an implementation. Open makes an empty log; what it gives connects one more
// node to it.
func Run(t *testing.T, open func(t *testing.T) (connect func(t *testing.T) Log)) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, a, b Log)
	}{
		{"append", testAppend}, {"changes", testChanges}, {"changed", testChanged}, {"writers", testWriters},
		{"founding", testFounding}, {"claim", testClaim}, {"founders", testFounders},
		{"abandon", testAbandon}, {"snapshot", testSnapshot}, {"broken snapshot", testBrokenSnapshot}, {"forget", testForget},
		{"nodes", testNodes}, {"context", testContext},
	} {
		t.Run(c.name, func(t *testing.T) {
			connect := open(t)
			c.test(t, connect(t), connect(t))
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wants(t *testing.T, err error, code fault.Code) {
	t.Helper()
	if fault.CodeOf(err) != code {
		t.Errorf("got %v, want %s", err, code)
	}
}

func testAppend(t *testing.T, a, b Log) {
	ctx := t.Context()
	newest := func(want uint64) {
		t.Helper()
		for _, l := range []Log{a, b} {
			if got, err := l.Newest(ctx); err != nil || got != want {
				t.Errorf("the newest change is %d (%v), want %d", got, err, want)
			}
		}
	}
	newest(0)
	wants(t, a.Append(ctx, 2, []byte("two")), fault.Conflict)
	must(t, a.Append(ctx, 1, []byte("one")))
	newest(1)
	wants(t, b.Append(ctx, 1, []byte("another")), fault.Changed)
	wants(t, a.Append(ctx, 1, []byte("one")), fault.Changed)
	wants(t, b.Append(ctx, 3, []byte("three")), fault.Conflict)
	must(t, b.Append(ctx, 2, nil))
	newest(2)
	for _, number := range []uint64{0, math.MaxInt64 + 1, math.MaxUint64} {
		wants(t, a.Append(ctx, number, []byte("x")), fault.Invalid)
	}
	wants(t, a.Append(ctx, math.MaxInt64, []byte("x")), fault.Conflict)
	newest(2)
}

func testChanges(t *testing.T, a, b Log) {
	ctx := t.Context()
	want := func(from uint64, most int, want ...string) {
		t.Helper()
		bodies, err := b.Changes(ctx, from, most)
		must(t, err)
		var got []string
		for _, b := range bodies {
			got = append(got, string(b))
		}
		if !slices.Equal(got, want) {
			t.Errorf("from %d, at most %d: got %q, want %q", from, most, got, want)
		}
	}
	want(1, 10)
	var all []string
	for n := range uint64(7) {
		body := fmt.Sprintf("change %d \x00\xff", n+1)
		must(t, a.Append(ctx, n+1, []byte(body)))
		all = append(all, body)
	}
	want(1, 100, all...)
	want(1, 3, all[:3]...)
	want(4, 2, all[3:5]...)
	want(7, math.MaxInt, all[6:]...)
	for _, from := range []uint64{0, 8, math.MaxInt64, math.MaxInt64 + 1, math.MaxUint64} {
		want(from, 5)
	}
	want(1, 0)
	want(1, -1)
	want(1, math.MinInt)
}

// testChanged: what is only a hint may not come, but it does not end.
func testChanged(t *testing.T, a, b Log) {
	must(t, a.Append(t.Context(), 1, []byte("one")))
	for range 2 {
		select {
		case _, ok := <-b.Changed():
			if !ok {
				t.Error("the channel of signals is closed")
			}
		default:
		}
	}
}

// testWriters: of many that append at once, each number is given once, and none is left
// out.
func testWriters(t *testing.T, a, b Log) {
	const writers, each = 8, 15
	ctx := t.Context()
	var wg sync.WaitGroup
	var mine sync.Map
	for w := range writers {
		l := []Log{a, b}[w%2]
		wg.Go(func() {
			for n := range each {
				body := fmt.Sprintf("%d of %d", n, w)
				for {
					newest, err := l.Newest(ctx)
					if err == nil {
						err = l.Append(ctx, newest+1, []byte(body))
					}
					if err == nil {
						if other, twice := mine.LoadOrStore(newest+1, body); twice {
							t.Errorf("change %d was given to %q and %q", newest+1, other, body)
						}
						break
					}
					if fault.CodeOf(err) != fault.Changed {
						t.Errorf("%d: %v", newest+1, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	bodies, err := a.Changes(ctx, 1, 2*writers*each)
	must(t, err)
	if len(bodies) != writers*each {
		t.Fatalf("there are %d changes without a gap, want %d", len(bodies), writers*each)
	}
	for i, body := range bodies {
		if want, _ := mine.Load(uint64(i + 1)); want != string(body) {
			t.Errorf("change %d is %q, want %q", i+1, body, want)
		}
	}
}

func testFounding(t *testing.T, a, b Log) {
	ctx := t.Context()
	_, err := a.Founding(ctx)
	wants(t, err, fault.NotFound)
	want := appliance.Founding{Installation: "i-1", WrappedStateKey: []byte{0, 1, 0xff}}
	must(t, a.Found(ctx, &want))
	for _, l := range []Log{a, b} {
		wants(t, l.Found(ctx, &appliance.Founding{Installation: "i-2", WrappedStateKey: []byte("x")}), fault.Exists)
		if got, err := l.Founding(ctx); err != nil || got.Installation != want.Installation || !bytes.Equal(got.WrappedStateKey, want.WrappedStateKey) {
			t.Errorf("got %+v %v", got, err)
		}
		if ok, err := l.ClaimFounding(ctx, "n", time.Minute); ok || err != nil {
			t.Errorf("what was begun can be claimed: %v %v", ok, err)
		}
	}
}

// testClaim: by the log's clock, which a test cannot turn, so the lease that ends is one
// that has ended when it begins.
func testClaim(t *testing.T, a, b Log) {
	ctx := t.Context()
	claim := func(l Log, node string, lease time.Duration, want bool) {
		t.Helper()
		if got, err := l.ClaimFounding(ctx, node, lease); err != nil || got != want {
			t.Errorf("%s: got %v %v, want %v", node, got, err, want)
		}
	}
	claim(a, "a", time.Hour, true)
	claim(b, "b", time.Hour, false)
	claim(a, "a", time.Hour, true)
	claim(b, "b", time.Hour, false)
	claim(a, "a", 0, true) // gives it up
	claim(b, "b", time.Hour, true)
	claim(a, "a", time.Hour, false)
	must(t, b.Found(ctx, &appliance.Founding{Installation: "i", WrappedStateKey: []byte("k")}))
	claim(b, "b", time.Hour, false)
}

// testFounders: of many that begin at once, one does.
func testFounders(t *testing.T, a, b Log) {
	ctx := t.Context()
	var wg sync.WaitGroup
	var claims, foundings atomic.Int32
	for n := range 8 {
		l := []Log{a, b}[n%2]
		wg.Go(func() {
			ok, err := l.ClaimFounding(ctx, fmt.Sprint("node", n), time.Hour)
			if err != nil {
				t.Error(err)
			}
			if ok {
				claims.Add(1)
			}
		})
	}
	wg.Wait()
	for n := range 8 {
		l := []Log{a, b}[n%2]
		wg.Go(func() {
			err := l.Found(ctx, &appliance.Founding{Installation: fmt.Sprint("i", n), WrappedStateKey: []byte("k")})
			if err == nil {
				foundings.Add(1)
			} else if fault.CodeOf(err) != fault.Exists {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if claims.Load() != 1 || foundings.Load() != 1 {
		t.Errorf("%d claims and %d foundings, want one of each", claims.Load(), foundings.Load())
	}
}

// testAbandon: what was left before an installation was begun can be removed, and nothing after.
func testAbandon(t *testing.T, a, b Log) {
	ctx := t.Context()
	leave := func() {
		t.Helper()
		must(t, a.Append(ctx, 1, []byte("one")))
		must(t, a.Append(ctx, 2, []byte("two")))
		must(t, a.KeepSnapshot(ctx, 2, Parts(nil, []byte("part"))))
	}
	must(t, b.Abandon(ctx)) // of nothing
	leave()
	must(t, b.Abandon(ctx))
	if n, err := a.Newest(ctx); n != 0 || err != nil {
		t.Errorf("change %d is left: %v", n, err)
	}
	_, _, err := a.Snapshot(ctx)
	wants(t, err, fault.NotFound)
	leave()
	must(t, a.Found(ctx, &appliance.Founding{Installation: "i", WrappedStateKey: []byte("k")}))
	wants(t, b.Abandon(ctx), fault.Exists)
	if n, err := a.Newest(ctx); n != 2 || err != nil {
		t.Errorf("the newest change is %d: %v", n, err)
	}
	if n, _, err := a.Snapshot(ctx); n != 2 || err != nil {
		t.Errorf("the snapshot is of change %d: %v", n, err)
	}
}

// Parts gives parts of a snapshot, and then the error if it is not nil.
func Parts(err error, parts ...[]byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, p := range parts {
			if !yield(p, nil) {
				return
			}
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

func wantSnapshot(t *testing.T, l Log, number uint64, parts ...[]byte) {
	t.Helper()
	got, all, err := l.Snapshot(t.Context())
	if len(parts) == 0 {
		wants(t, err, fault.NotFound)
		return
	}
	must(t, err)
	if got != number {
		t.Errorf("got the snapshot of change %d, want %d", got, number)
	}
	for range 2 { // it can be read again
		var read [][]byte
		for p, err := range all {
			must(t, err)
			read = append(read, p)
		}
		if !slices.EqualFunc(read, parts, bytes.Equal) {
			t.Errorf("snapshot %d has other parts: %d, want %d", number, len(read), len(parts))
		}
	}
	for range all {
		break
	}
}

func testSnapshot(t *testing.T, a, b Log) {
	ctx := t.Context()
	wantSnapshot(t, a, 0)
	first := [][]byte{bytes.Repeat([]byte{0xa5}, MaxPart), {}, []byte("end")}
	must(t, a.KeepSnapshot(ctx, 5, Parts(nil, first...)))
	wantSnapshot(t, b, 5, first...)
	second := [][]byte{[]byte("nine")}
	must(t, b.KeepSnapshot(ctx, 9, Parts(nil, second...)))
	wantSnapshot(t, a, 9, second...)
	must(t, a.KeepSnapshot(ctx, 7, Parts(nil, first...))) // an older one is not the newest
	wantSnapshot(t, a, 9, second...)
	again := [][]byte{[]byte("nine"), []byte("sealed again")}
	must(t, a.KeepSnapshot(ctx, 9, Parts(nil, again...))) // by two nodes at once
	wantSnapshot(t, b, 9, again...)
}

// testBrokenSnapshot: one that is not whole does not count.
func testBrokenSnapshot(t *testing.T, a, b Log) {
	ctx := t.Context()
	broken := errors.New("the disk is gone")
	keep := func(want [][]byte) {
		t.Helper()
		if err := a.KeepSnapshot(ctx, 8, Parts(broken, []byte("one"), []byte("two"))); !errors.Is(err, broken) || err.Error() != broken.Error() {
			t.Errorf("got %v, want the error as it is", err)
		}
		wantSnapshot(t, b, 3, want...)
		wants(t, a.KeepSnapshot(ctx, 8, Parts(nil)), fault.Invalid)
		wants(t, a.KeepSnapshot(ctx, 8, Parts(nil, []byte("one"), make([]byte, MaxPart+1))), fault.Invalid)
		wantSnapshot(t, b, 3, want...)
		for _, number := range []uint64{0, math.MaxInt64 + 1} {
			wants(t, a.KeepSnapshot(ctx, number, Parts(nil, []byte("one"))), fault.Invalid)
		}
		stopped, stop := context.WithCancel(ctx)
		wants(t, a.KeepSnapshot(stopped, 8, func(yield func([]byte, error) bool) {
			yield([]byte("one"), nil)
			stop()
			yield([]byte("two"), nil)
		}), fault.DatabaseAway)
		wantSnapshot(t, b, 3, want...)
	}
	keep(nil)
	whole := [][]byte{[]byte("three")}
	must(t, a.KeepSnapshot(ctx, 3, Parts(nil, whole...)))
	keep(whole)
}

func testForget(t *testing.T, a, b Log) {
	ctx := t.Context()
	for n := range uint64(6) {
		must(t, a.Append(ctx, n+1, []byte{byte(n + 1)}))
	}
	for _, n := range []uint64{2, 4} {
		must(t, a.KeepSnapshot(ctx, n, Parts(nil, []byte{byte(n)})))
	}
	have := func(from uint64, want int) {
		t.Helper()
		if got, err := b.Changes(ctx, from, 10); err != nil || len(got) != want {
			t.Errorf("from %d there are %d changes (%v), want %d", from, len(got), err, want)
		}
	}
	must(t, a.Forget(ctx, 0))
	have(1, 6)
	must(t, a.Forget(ctx, 4))
	must(t, b.Forget(ctx, 4))
	have(3, 0)
	have(4, 3)
	wantSnapshot(t, b, 4, []byte{4})
	// What is forgotten was there: nobody makes it again.
	for n := range uint64(4) {
		wants(t, a.Append(ctx, n+1, []byte("again")), fault.Changed)
	}
	must(t, a.Append(ctx, 7, []byte{7}))
	// The newest change stays, so that the next has one before it.
	must(t, a.Forget(ctx, math.MaxUint64))
	have(7, 1)
	wantSnapshot(t, b, 0)
	must(t, a.Append(ctx, 8, []byte{8}))
}

func testNodes(t *testing.T, a, b Log) {
	ctx := t.Context()
	list := func(want ...string) []appliance.NodeHint {
		t.Helper()
		nodes, err := b.Nodes(ctx)
		must(t, err)
		var got []string
		for _, n := range nodes {
			got = append(got, n.ID+" "+n.Address)
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		return nodes
	}
	list()
	must(t, b.Announce(ctx, appliance.NodeHint{ID: "n2", Address: "[::1]:9443"}))
	must(t, a.Announce(ctx, appliance.NodeHint{ID: "n1", Address: "10.0.0.1:9443", At: time.Unix(1, 0)}))
	first := list("n1 10.0.0.1:9443", "n2 [::1]:9443")
	if first[0].At.Before(time.Now().Add(-time.Hour)) || first[0].At.After(time.Now().Add(time.Hour)) {
		t.Errorf("announced at %v, which is not the log's clock", first[0].At)
	}
	must(t, a.Announce(ctx, appliance.NodeHint{ID: "n1", Address: "10.0.0.9:9443"}))
	if again := list("n1 10.0.0.9:9443", "n2 [::1]:9443"); again[0].At.Before(first[0].At) {
		t.Errorf("announced at %v, then at %v", first[0].At, again[0].At)
	}
	must(t, b.RemoveNode(ctx, "n1"))
	must(t, a.RemoveNode(ctx, "n1"))
	list("n2 [::1]:9443")
}

// testContext: who does not wait is told that the log was not reached.
func testContext(t *testing.T, a, _ Log) {
	must(t, a.Append(t.Context(), 1, []byte("one")))
	ended, end := context.WithCancel(t.Context())
	end()
	for name, call := range map[string]func(ctx context.Context) error{
		"Append":        func(ctx context.Context) error { return a.Append(ctx, 2, []byte("two")) },
		"Changes":       func(ctx context.Context) error { _, err := a.Changes(ctx, 1, 1); return err },
		"Newest":        func(ctx context.Context) error { _, err := a.Newest(ctx); return err },
		"Founding":      func(ctx context.Context) error { _, err := a.Founding(ctx); return err },
		"ClaimFounding": func(ctx context.Context) error { _, err := a.ClaimFounding(ctx, "n", time.Second); return err },
		"Found": func(ctx context.Context) error {
			return a.Found(ctx, &appliance.Founding{Installation: "i", WrappedStateKey: []byte("k")})
		},
		"Snapshot":     func(ctx context.Context) error { _, _, err := a.Snapshot(ctx); return err },
		"KeepSnapshot": func(ctx context.Context) error { return a.KeepSnapshot(ctx, 1, Parts(nil, []byte("one"))) },
		"Forget":       func(ctx context.Context) error { return a.Forget(ctx, 1) },
		"Announce":     func(ctx context.Context) error { return a.Announce(ctx, appliance.NodeHint{ID: "n", Address: "a:1"}) },
		"Nodes":        func(ctx context.Context) error { _, err := a.Nodes(ctx); return err },
		"RemoveNode":   func(ctx context.Context) error { return a.RemoveNode(ctx, "n") },
	} {
		if err := call(ended); fault.CodeOf(err) != fault.DatabaseAway || !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if newest, err := a.Newest(t.Context()); err != nil || newest != 1 {
		t.Errorf("got %d %v", newest, err)
	}
}
