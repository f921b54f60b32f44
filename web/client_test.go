package web_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"holdfast/appliance/fault"
	"holdfast/web"
	"holdfast/web/operation"
)

// breaking serves a handler and breaks connections off, as cut says for each answer: by the
// number of the request, and whether its answer is whole.
type breaking struct {
	handler http.Handler
	cut     func(n int32) (bytes int, ok bool)
	n       atomic.Int32
	mu      sync.Mutex
	keys    []string // of the changes
	reads   []string // of all else
}

func (b *breaking) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	list := &b.keys
	if r.Method == http.MethodGet {
		list = &b.reads
	}
	*list = append(*list, r.Header.Get(operation.IdempotencyKeyHeader))
	b.mu.Unlock()
	at, cuts := b.cut(b.n.Add(1))
	if !cuts {
		b.handler.ServeHTTP(w, r)
		return
	}
	answer := httptest.NewRecorder()
	b.handler.ServeHTTP(answer, r)
	connection, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	var text bytes.Buffer
	whole := answer.Result()
	whole.ContentLength = int64(answer.Body.Len())
	_ = whole.Write(&text)
	_, _ = connection.Write(text.Bytes()[:min(at, text.Len())])
	_ = connection.Close()
}

// sent gives the keys of the changes until now.
func (b *breaking) sent() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.keys)
}

// broken gives a client of the API whose connections break.
func broken(t *testing.T, a *api, cut func(n int32) (int, bool)) (*web.Client, *breaking) {
	t.Helper()
	b := &breaking{handler: as(root, a.api), cut: cut}
	return clientOf(t, b), b
}

// TestClientSendsAgain: where the connection breaks after a change was sent, at whichever byte of
// the answer, the client sends it once more, and it was done once.
func TestClientSendsAgain(t *testing.T) {
	a := start(t, nil)
	for _, at := range []int{0, 10, 200} {
		c, b := broken(t, a, func(n int32) (int, bool) { return at, n == 1 })
		name := "store-" + string(rune('a'+at%26))
		made, err := operation.CreateKeyStore.Call(t.Context(), c, operation.NewKeyStore{Name: name})
		if err != nil || made.Out.Name != name {
			t.Errorf("broken at byte %d: %v", at, err)
		}
		if len(b.sent()) != 2 || b.sent()[0] != b.sent()[1] || len(b.sent()[0]) < 16 {
			t.Errorf("the keys are %q", b.sent())
		}
		if _, err := operation.DeleteKeyStore.Call(t.Context(), c, operation.KeyStoreName{KeyStore: name}); err != nil || b.sent()[2] == b.sent()[0] {
			t.Errorf("the keys are %q: %v", b.sent(), err)
		}
		if _, err := operation.ListKeyStores.Call(t.Context(), c, operation.KeyStorePage{}); err != nil || len(b.reads) == 0 || strings.Join(b.reads, "") != "" {
			t.Errorf("a read has a key: %q: %v", b.reads, err)
		}
	}
	for times, cut := range map[int]func(n int32) (int, bool){
		1: func(int32) (int, bool) { return 0, true },       // nothing says that keys are kept
		2: func(n int32) (int, bool) { return 0, n%2 == 1 }, // the read between does
	} {
		c, b := broken(t, a, cut)
		_, err := operation.CreateKeyStore.Call(t.Context(), c, operation.NewKeyStore{Name: "never" + strconv.Itoa(times)})
		if err == nil || len(b.sent()) != times || !strings.Contains(err.Error(), "nobody here knows") || !strings.Contains(err.Error(), "audit log") {
			t.Errorf("a connection that always breaks: %v, %d times, want %d", err, len(b.sent()), times)
		}
	}
}

// TestClientAndOtherRelease: a change is sent once to an appliance that is not known to keep idempotency
// keys at all nodes, whether the connection is a new one or was used before; with a body or without.
func TestClientAndOtherRelease(t *testing.T) {
	for _, keeps := range []bool{false, true} {
		for _, used := range []bool{false, true} {
			for _, q := range []struct{ method, path string }{{"POST", "keystores"}, {"DELETE", "keystores/p"}} {
				var body any
				if q.method == "POST" {
					body = map[string]string{"name": "p"}
				}
				b := &breaking{cut: func(int32) (int, bool) { return 0, false }}
				b.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if keeps {
						w.Header().Set(operation.KeptHeader, "kept")
					}
					if r.Method != http.MethodGet && len(b.sent()) == 1 { // done, and the connection breaks
						panic(http.ErrAbortHandler)
					}
					_, _ = io.WriteString(w, "{}")
				})
				c := clientOf(t, b)
				if used {
					if err := c.Do(t.Context(), "GET", "status", nil, nil); err != nil {
						t.Fatal(err)
					}
				}
				err := c.Do(t.Context(), q.method, q.path, body, nil)
				if want := map[bool]int{true: 2, false: 1}[keeps]; len(b.sent()) != want || (err == nil) != keeps || b.sent()[0] == "" {
					t.Errorf("%+v, kept %t, used %t: sent %d times: %v", q, keeps, used, len(b.sent()), err)
				}
			}
		}
	}
}

// TestClientWithKey: a client that is given a key does again what the one before it did, in the
// same order, and changes nothing.
func TestClientWithKey(t *testing.T) {
	a := start(t, nil)
	var before []string
	for range 2 {
		c := web.NewClient(a.socket)
		c.IdempotencyKey = "the-key-of-a-program"
		var secrets []string
		if _, err := operation.CreateKeyStore.Call(t.Context(), c, operation.NewKeyStore{Name: "p"}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			made, err := operation.CreateCredential.Call(t.Context(), c, operation.NewCredential{KeyStoreName: operation.KeyStoreName{KeyStore: "p"}})
			if err != nil {
				t.Fatal(err)
			}
			secrets = append(secrets, made.Out.SecretAccessKey)
		}
		if before != nil && strings.Join(before, " ") != strings.Join(secrets, " ") || secrets[0] == secrets[1] {
			t.Errorf("%q, and %q", before, secrets)
		}
		before = secrets
	}
}

// TestClientWithoutRoom: a client whose keys are used up does without, and one that was given a
// key says so.
func TestClientWithoutRoom(t *testing.T) {
	full := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(operation.IdempotencyKeyHeader) != "" {
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = io.WriteString(w, `{"code": "idempotency_keys_exhausted", "message": "too many"}`)
			return
		}
		_, _ = io.WriteString(w, `{"name": "p"}`)
	})
	c := clientOf(t, full)
	if _, err := operation.CreateKeyStore.Call(t.Context(), c, operation.NewKeyStore{Name: "p"}); err != nil {
		t.Error(err)
	}
	c.IdempotencyKey = "the-key-of-a-program"
	if _, err := operation.CreateKeyStore.Call(t.Context(), c, operation.NewKeyStore{Name: "p"}); fault.CodeOf(err) != fault.KeysExhausted {
		t.Error(err)
	}
}
