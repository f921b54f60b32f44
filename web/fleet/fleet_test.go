package fleet_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/fleet"
	web "holdfast/web/fleet"
)

// rows are those of a fleet of a and b, in which nothing changes.
type rows struct{}

func (rows) Roll() (appliance.Position, []appliance.Node) {
	return appliance.Position{Number: 2, Digest: "d2"}, []appliance.Node{{ID: "a", State: appliance.NodeServing}, {ID: "b", State: appliance.NodeServing}}
}
func (rows) Written() uint64 { return 2 }

func (rows) Passed(appliance.Position) (passed, known bool) { return true, true }
func (rows) CatchUp()                                       {}

type key string

func (k key) MAC(message []byte) []byte {
	m := hmac.New(sha256.New, []byte(k))
	m.Write(message)
	return m.Sum(nil)
}
func (key) Wipe() {}

// hints say of one other node.
type hints struct {
	appliance.NodeHints
	other appliance.NodeHint
}

func (hints) Announce(context.Context, appliance.NodeHint) error { return nil }
func (h hints) Nodes(context.Context) ([]appliance.NodeHint, error) {
	return []appliance.NodeHint{h.other}, nil
}

func serve(t *testing.T, node func() web.Node) (*httptest.Server, string) {
	t.Helper()
	s := httptest.NewTLSServer(&web.Handler{Node: node, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(s.Close)
	return s, strings.TrimPrefix(s.URL, "https://")
}

// TestNodesOverHTTPS: two nodes that know each other's address keep each other fresh, and
// one with another installation's key does not.
func TestNodesOverHTTPS(t *testing.T) {
	for name, other := range map[string]key{"of the installation": "one", "of another": "two"} {
		t.Run(name, func(t *testing.T) {
			b := fleet.New(fleet.Options{ID: "b", Installation: "i", Key: other, Rows: rows{}, Grace: time.Minute})
			_, address := serve(t, func() web.Node { return b })
			client := web.NewClient()
			defer client.Close()
			calls := make(chan error, 100)
			a := fleet.New(fleet.Options{ID: "a", Installation: "i", Key: key("one"), Rows: rows{}, Grace: time.Minute, Beat: time.Second,
				Hints: hints{other: appliance.NodeHint{ID: "b", Address: address}}, Transport: told{client, calls}})
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { a.Run(ctx); close(done) }()
			defer func() { stop(); <-done }()
			for answered := 0; answered < 2; {
				err := <-calls
				if fault.CodeOf(err) == fault.Unreachable { // a busy machine
					continue
				}
				answered++
				if fault.CodeOf(err) != map[key]fault.Code{"one": "", "two": fault.FleetMessage}[other] {
					t.Fatal(err)
				}
			}
			if err := a.Fresh(); (err == nil) != (other == "one") {
				t.Error(err)
			}
		})
	}
}

// told is a transport that tells what came of each call.
type told struct {
	fleet.Transport
	calls chan error
}

func (c told) Call(ctx context.Context, address string, message []byte) ([]byte, error) {
	answer, err := c.Transport.Call(ctx, address, message)
	select {
	case c.calls <- err:
	default:
	}
	return answer, err
}

type echo struct{}

func (echo) Handle(message []byte) ([]byte, error) { return message, nil }

// TestHandler: each bound of the endpoint holds, and says which it was.
func TestHandler(t *testing.T) {
	server, address := serve(t, func() web.Node { return echo{} })
	_, locked := serve(t, func() web.Node { return nil })
	client := web.NewClient()
	if answer, err := client.Call(t.Context(), address, []byte("x")); err != nil || string(answer) != "x" {
		t.Errorf("%s, %v", answer, err)
	}
	if _, err := client.Call(t.Context(), locked, []byte("x")); fault.CodeOf(err) != fault.Locked {
		t.Errorf("locked: %v", err)
	}
	if _, err := client.Call(t.Context(), address, make([]byte, fleet.MaxMessage+1)); fault.CodeOf(err) != fault.TooLarge {
		t.Errorf("too large: %v", err)
	}
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
		r, _ := http.NewRequestWithContext(t.Context(), method, server.URL+web.Path, nil)
		answer, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusMethodNotAllowed || answer.Header.Get("Allow") != http.MethodPost {
			t.Errorf("%s: %s", method, answer.Status)
		}
	}
	throttled := false
	for range 300 {
		if _, err := client.Call(t.Context(), address, nil); fault.CodeOf(err) == fault.Throttled {
			throttled = true
			break
		}
	}
	if !throttled {
		t.Error("300 calls at once were answered")
	}
}

// TestClientBounds: what is no node is not taken for one, and is not read without end.
func TestClientBounds(t *testing.T) {
	for name, want := range map[string]fault.Code{"page": fault.Unreachable, "endless": fault.TooLarge, "redirect": fault.Unreachable, "gone": fault.Unreachable} {
		s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch name {
			case "page":
				_, _ = io.WriteString(w, "<html>")
			case "endless":
				for range 100 {
					if _, err := w.Write(bytes.Repeat([]byte(" "), 4096)); err != nil {
						return
					}
				}
			case "redirect":
				http.Redirect(w, r, "https://example.com/", http.StatusFound)
			}
		}))
		if name == "gone" {
			s.Close()
		}
		if _, err := web.NewClient().Call(t.Context(), strings.TrimPrefix(s.URL, "https://"), []byte("x")); fault.CodeOf(err) != want {
			t.Errorf("%s: %v", name, err)
		}
		s.Close()
	}
	if _, err := web.NewClient().Call(t.Context(), "no address", nil); fault.CodeOf(err) != fault.Invalid {
		t.Error(err)
	}
}

// TestManyCallers: addresses that call once are not kept without bound, and none of them
// takes another's allowance.
func TestManyCallers(t *testing.T) {
	h := &web.Handler{Node: func() web.Node { return echo{} }, Log: slog.New(slog.DiscardHandler)}
	call := func(address string) int {
		r := httptest.NewRequest(http.MethodPost, web.Path, strings.NewReader("x"))
		r.RemoteAddr = address
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	for range 190 {
		call("192.0.2.1:5")
	}
	refused := 0
	for i := range 2000 {
		if call("[2001:db8::"+string("0123456789abcdef"[i%16])+string("0123456789abcdef"[i/16%16])+string("0123456789abcdef"[i/256])+"]:1") != http.StatusOK {
			refused++
		}
	}
	if refused == 0 {
		t.Error("2000 addresses were counted apart")
	}
	if got := call("192.0.2.1:6"); got != http.StatusOK {
		t.Errorf("a node that calls is refused: %d", got)
	}
}
