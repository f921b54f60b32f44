package web_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/web"
	"holdfast/web/forget"
	"holdfast/web/operation"
	"holdfast/web/webtest"
)

// log is a log of changes, and node how far somebody is in it.
type log struct{ newest atomic.Uint64 }

type node struct {
	log   *log
	away  atomic.Bool // the log does not answer this node
	at    atomic.Uint64
	looks atomic.Int64
	slow  time.Duration
}

func (n *node) Written() uint64 { return n.at.Load() }

func (n *node) Position() appliance.Position { return appliance.Position{Number: n.at.Load()} }

func (n *node) CatchUp(ctx context.Context) error {
	n.looks.Add(1)
	if n.slow > 0 {
		time.Sleep(n.slow) // in a bubble of synctest
	}
	if n.away.Load() {
		return fault.Errorf(fault.DatabaseAway, "no answer")
	}
	n.at.Store(max(n.at.Load(), n.log.newest.Load()))
	return nil
}

// pages answers as a console does: POST changes something, GET says which change it shows.
func (n *node) pages(t *testing.T) http.Handler { return n.pagesOf(noDomain(t)) }

func noDomain(t *testing.T) operation.Options {
	return options(t, nil, &webtest.Boot{}, &webtest.Audit{}, slog.New(slog.DiscardHandler))
}

func (n *node) pagesOf(o operation.Options) http.Handler {
	return web.NewHandler(web.Public{API: web.NewAPI(o), Positions: n, Boot: o.Boot, Identity: o.Identity, Metrics: http.NotFoundHandler(), Log: o.Log, Console: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if r.URL.Path == "/asset" {
			w.Header().Set("Cache-Control", "public")
		}
		if r.Method == http.MethodPost {
			n.at.Store(n.log.newest.Add(1))
		}
		answer := func(w http.ResponseWriter) { _, _ = io.WriteString(w, strconv.FormatUint(n.at.Load(), 10)) }
		if r.URL.Path == "/secret" {
			forget.Answer(w, r, answer)
			return
		}
		answer(w)
	})})
}

func ask(h http.Handler, method, path, cookie, header string) *httptest.ResponseRecorder {
	q := httptest.NewRequest(method, "https://console.test"+path, nil)
	if cookie != "" {
		q.AddCookie(&http.Cookie{Name: "__Host-holdfast-position", Value: cookie})
	}
	if header != "" {
		q.Header.Set(web.PositionHeader, header)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, q)
	return w
}

// TestNextNodeHasTheChange: after a change at one node, the next request of the same browser
// or program sees it at another one that is behind.
func TestNextNodeHasTheChange(t *testing.T) {
	shared := &log{}
	one, other := &node{log: shared}, &node{log: shared}
	first, second := one.pages(t), other.pages(t)
	made := ask(first, "POST", "/", "", "")
	cookies := made.Result().Cookies()
	if len(cookies) != 1 || cookies[0].Value != "1" || !cookies[0].HttpOnly || !cookies[0].Secure || made.Header().Get(web.PositionHeader) != "1" {
		t.Fatalf("%v %v", cookies, made.Header())
	}
	if w := ask(second, "GET", "/", "", ""); w.Body.String() != "0" || other.looks.Load() != 0 {
		t.Errorf("who has seen nothing waits for nothing: %s", w.Body)
	}
	if w := ask(second, "GET", "/", cookies[0].Value, ""); w.Body.String() != "1" || len(w.Result().Cookies()) != 0 {
		t.Errorf("by the cookie: %s %v", w.Body, w.Result().Cookies())
	}
	ask(first, "POST", "/", "", "")
	if w := ask(second, "GET", "/", "", "2"); w.Body.String() != "2" {
		t.Errorf("by the header: %s", w.Body)
	}
	if w := ask(second, "GET", "/asset", "", ""); len(w.Result().Cookies()) != 0 {
		t.Errorf("what caches keep has a cookie: %v", w.Result().Cookies())
	}
	if w := ask(first, "GET", "/api/v1/version", "", ""); w.Header().Get(web.PositionHeader) != "2" {
		t.Errorf("the API: %v", w.Header())
	}
}

// TestPositionsMadeUp: a number that there is not costs one look at the log, and nothing that is
// no number costs anything.
func TestPositionsMadeUp(t *testing.T) {
	n := &node{log: &log{}}
	h := n.pages(t)
	for _, text := range []string{"", "x", "-1", "1.5", "99999999999999999999999", "0"} {
		if w := ask(h, "GET", "/", text, ""); w.Code != http.StatusOK || n.looks.Load() != 0 {
			t.Errorf("%q: %d, %d looks", text, w.Code, n.looks.Load())
		}
	}
	if w := ask(h, "GET", "/", "18446744073709551615", ""); w.Code != http.StatusOK || n.looks.Load() != 1 || w.Header().Get(web.PositionHeader) != "0" {
		t.Errorf("a huge number: %d, %d looks", w.Code, n.looks.Load())
	}
}

// TestPositionIsNotWaitedForLong: while the log does not answer a node, its peers may bring the
// change; otherwise it answers two seconds later with what it has.
func TestPositionIsNotWaitedForLong(t *testing.T) {
	n, o := &node{log: &log{}}, noDomain(t)
	synctest.Test(t, func(t *testing.T) {
		h := n.pagesOf(o)
		n.away.Store(true)
		began := time.Now()
		if w := ask(h, "GET", "/", "5", ""); w.Body.String() != "0" || time.Since(began) != 2*time.Second {
			t.Errorf("%s after %s", w.Body, time.Since(began))
		}
		began = time.Now()
		time.AfterFunc(300*time.Millisecond, func() { n.at.Store(5) })
		if w := ask(h, "GET", "/", "5", ""); w.Body.String() != "5" || time.Since(began) > 400*time.Millisecond {
			t.Errorf("brought by a peer: %s after %s", w.Body, time.Since(began))
		}
	})
}

// TestLooksAreShared: many requests that name a change which there is not do not make many
// looks at the log.
func TestLooksAreShared(t *testing.T) {
	n, o := &node{log: &log{}, slow: 100 * time.Millisecond}, noDomain(t)
	synctest.Test(t, func(t *testing.T) {
		h := n.pagesOf(o)
		var all sync.WaitGroup
		for range 200 {
			all.Go(func() { ask(h, "GET", "/", "1000", "") })
		}
		all.Wait()
		if looks := n.looks.Load(); looks > 2 {
			t.Errorf("%d looks", looks)
		}
	})
}

// TestPositionOfAConnectionTakenOver: an answer to a secret, which is written past package http,
// has it too.
func TestPositionOfAConnectionTakenOver(t *testing.T) {
	n := &node{log: &log{}}
	s := httptest.NewServer(n.pages(t))
	defer s.Close()
	answer, err := http.Post(s.URL+"/secret", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.Header.Get(web.PositionHeader) != "1" || len(answer.Cookies()) != 1 {
		t.Errorf("%v", answer.Header)
	}
}

// TestClientSendsThePosition: a program's second call sees what its first one changed.
func TestClientSendsThePosition(t *testing.T) {
	var seen []string
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get(web.PositionHeader))
		w.Header().Set(web.PositionHeader, []string{"7", "5", "x"}[len(seen)-1])
		_, _ = io.WriteString(w, "{}")
	}))
	defer s.Close()
	c, err := web.NewRemoteClient(s.URL, "hf_x", s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := c.Do(t.Context(), "GET", "version", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Join(seen, " ") != " 7 7" {
		t.Errorf("%q", seen)
	}
}
