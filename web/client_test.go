package web_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
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
	keys    []string
}

func (b *breaking) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	b.keys = append(b.keys, r.Header.Get(operation.IdempotencyKeyHeader))
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
		if len(b.keys) != 2 || b.keys[0] != b.keys[1] || len(b.keys[0]) < 16 {
			t.Errorf("the keys are %q", b.keys)
		}
		if _, err := operation.DeleteKeyStore.Call(t.Context(), c, operation.KeyStoreName{KeyStore: name}); err != nil || b.keys[2] == b.keys[0] {
			t.Errorf("the keys are %q: %v", b.keys, err)
		}
		if _, err := operation.ListKeyStores.Call(t.Context(), c, operation.KeyStorePage{}); err != nil || b.keys[3] != "" {
			t.Errorf("a read has a key: %q: %v", b.keys, err)
		}
	}
	c, b := broken(t, a, func(int32) (int, bool) { return 0, true })
	if _, err := operation.CreateKeyStore.Call(t.Context(), c, operation.NewKeyStore{Name: "never"}); err == nil || len(b.keys) != 2 {
		t.Errorf("a connection that always breaks: %v, %d times", err, len(b.keys))
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
