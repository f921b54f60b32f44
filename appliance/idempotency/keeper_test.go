package idempotency_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/idempotency"
)

// memory is a store in memory.
type memory struct {
	rows map[string]*idempotency.Row
	fail error // of each change
}

func (*memory) KeepsAnswers() bool { return true }

func (m *memory) Answer(_ context.Context, id string) (*idempotency.Row, error) {
	if r := m.rows[id]; r != nil {
		row := *r
		return &row, nil
	}
	return nil, fault.Errorf(fault.NotFound, "none")
}

func (m *memory) AnswersOf(_ context.Context, owner string, now time.Time) (t idempotency.Total, _ error) {
	for _, r := range m.rows {
		if r.Owner == owner && now.Before(r.Expires) {
			t.Answers, t.Bytes = t.Answers+1, t.Bytes+int64(len(r.Answer))
		}
	}
	return t, nil
}

func (m *memory) CreateAnswer(_ context.Context, r *idempotency.Row) error {
	return m.FinishAnswer(context.Background(), r)
}

func (m *memory) FinishAnswer(_ context.Context, r *idempotency.Row) error {
	if m.fail != nil {
		return m.fail
	}
	row := *r
	m.rows[r.ID] = &row
	return nil
}

func (m *memory) DeleteAnswer(_ context.Context, id, _ string) error { delete(m.rows, id); return nil }

func (m *memory) ForgetAnswers(context.Context, time.Time) (int, error) { return 0, nil }

// secret is that of all nodes.
type secret string

func (s secret) MACShared(b appliance.Binding) ([]byte, error) {
	if s == "" {
		return nil, fault.Errorf(fault.Locked, "locked")
	}
	sum := sha256.Sum256(append([]byte(s), b.AAD()...))
	return sum[:], nil
}

func (secret) Held() error { return nil }

const key = "a key that nobody can guess"

// bench is a keeper with a clock.
type bench struct {
	t   *testing.T
	m   *memory
	now time.Time
	k   *idempotency.Keeper
}

func newBench(t *testing.T, m *memory, s secret) *bench {
	b := &bench{t: t, m: m, now: time.Unix(1_800_000_000, 0)}
	b.k = idempotency.NewKeeper(m, s, func() time.Time { return b.now }, slog.New(slog.DiscardHandler))
	return b
}

// ask sends a request, which is answered with the body unless it was before.
func (b *bench) ask(owner, key, what, body string) (*idempotency.Answer, error) {
	b.t.Helper()
	r, err := b.k.Begin(b.t.Context(), idempotency.Asked{Owner: owner, Key: key, What: appliance.Binding{Fields: []string{what}}})
	if err != nil {
		return nil, err
	}
	defer r.End()
	if r.Kept != nil {
		return r.Kept, nil
	}
	return r.Finish(b.t.Context(), &idempotency.Answer{Status: 200, Body: []byte(body)})
}

func (b *bench) wants(code fault.Code, part string) func(a *idempotency.Answer, err error) {
	return func(a *idempotency.Answer, err error) {
		b.t.Helper()
		if fault.CodeOf(err) != code || code == "" && string(a.Body) != part || code != "" && !strings.Contains(err.Error(), part) {
			b.t.Errorf("%v, %v; want %q, %q", a, err, code, part)
		}
	}
}

// TestOnlyWithKeyAndSecret: an answer is found and opened by who has both the idempotency key and
// the secret of the nodes; a row that was changed is refused.
func TestOnlyWithKeyAndSecret(t *testing.T) {
	m := &memory{rows: map[string]*idempotency.Row{}}
	b := newBench(t, m, "one")
	b.wants("", "first")(b.ask("user a", key, "x", "first"))
	other := newBench(t, m, "one") // another node, or after a restart
	other.wants("", "first")(other.ask("user a", key, "x", "second"))
	other.wants(fault.KeyReused, "another request")(other.ask("user a", key, "y", "second"))
	for owner, k := range map[string]string{"user b": key, "user a": key + "."} {
		other.wants("", "second")(other.ask(owner, k, "x", "second"))
	}
	stranger := newBench(t, m, "another installation")
	stranger.wants("", "second")(stranger.ask("user a", key, "x", "second"))
	if len(m.rows) != 4 {
		t.Errorf("%d rows", len(m.rows))
	}
	for _, r := range m.rows {
		r.Answer[len(r.Answer)/2] ^= 1
	}
	other.wants(fault.Tampered, "seal")(other.ask("user a", key, "x", "second"))
	for _, r := range m.rows {
		r.Answer[len(r.Answer)/2] ^= 1
		r.Begun = r.Begun.Add(time.Millisecond)
	}
	other.wants(fault.Tampered, "seal")(other.ask("user a", key, "x", "second"))
}

// TestRoom: as many answers, and as many bytes, are kept for a principal as may be. Another one has
// room, and so has the first after a day; what was done is still answered.
func TestRoom(t *testing.T) {
	for _, s := range []secret{"one", ""} { // also while the process alone remembers
		m := &memory{rows: map[string]*idempotency.Row{}}
		b := newBench(t, m, s)
		for i := range idempotency.MaxAnswers {
			if _, err := b.ask("user a", key+string(rune(' '+1+i%90))+strings.Repeat("x", i/90), "x", "y"); err != nil {
				t.Fatal(i, err)
			}
		}
		b.wants(fault.KeysExhausted, "4096")(b.ask("user a", key, "x", "y"))
		b.wants("", "y")(b.ask("user a", key+"!", "x", "z"))
		b.wants("", "y")(b.ask("user b", key, "x", "y"))
		b.now = b.now.Add(idempotency.Lifetime)
		b.wants("", "z")(b.ask("user a", key, "x", "z"))
	}
	m := &memory{rows: map[string]*idempotency.Row{}}
	b := newBench(t, m, "one")
	noise := make([]byte, 200<<10)
	source := rand.NewChaCha8([32]byte{})
	n := 0
	for ; n < 1000; n++ {
		_, _ = source.Read(noise)
		if _, err := b.ask("user a", key+strings.Repeat("x", n), "x", string(noise)); fault.CodeOf(err) == fault.KeysExhausted {
			break
		}
	}
	if n < 50 || n > 100 {
		t.Errorf("%d long answers were kept", n)
	}
}

// TestTooLong: of an answer that is too long it is kept that it was given.
func TestTooLong(t *testing.T) {
	b := newBench(t, &memory{rows: map[string]*idempotency.Row{}}, "one")
	long := strings.Repeat("long ", 60_000)
	b.wants("", long)(b.ask("user a", key, "x", long))
	b.wants(fault.AnswerLost, "too long")(b.ask("user a", key, "x", "again"))
}

// TestRefusedAfterTheChange: of the refusals that come after a part of the change, one that would come
// again in any case is kept; after any other one, such as that the database is away, the answer is
// lost, at each node at once. What can be done again is done again.
func TestRefusedAfterTheChange(t *testing.T) {
	for _, e := range fault.All() {
		for _, resumes := range []bool{false, true} {
			m := &memory{rows: map[string]*idempotency.Row{}}
			one, two := newBench(t, m, "one"), newBench(t, m, "one")
			asked := func(node string) idempotency.Asked {
				return idempotency.Asked{Owner: "user a", Key: key, Node: node, What: appliance.Binding{Fields: []string{"x"}}, Resumes: resumes}
			}
			r, err := one.k.Begin(t.Context(), asked("1"))
			if err != nil {
				t.Fatal(err)
			}
			mark := idempotency.MarkOf(r.Marked(t.Context())) // as a store leaves it
			if err := m.CreateAnswer(t.Context(), mark.Row); err != nil {
				t.Fatal(err)
			}
			mark.Made()
			refusal := fault.Errorf(e.Code, "the first")
			if _, err := r.Settled(t.Context(), refusal); err != refusal { //nolint:errorlint // the very one
				t.Errorf("%s: %v", e.Code, err)
			}
			r.End()
			for node, b := range map[string]*bench{"1": one, "2": two} {
				again, err := b.k.Begin(t.Context(), asked(node))
				switch {
				case resumes:
					if err != nil || again.Kept != nil {
						t.Errorf("%s: %v, %+v", e.Code, err, again)
					}
				case e.Class == fault.Refused:
					if err != nil || again.Kept == nil || again.Kept.Code != e.Code || again.Kept.Message != "the first" {
						t.Errorf("%s: %v, %+v", e.Code, err, again)
					}
				case fault.CodeOf(err) != fault.AnswerLost || e.Class != fault.ClassInternal && !strings.Contains(err.Error(), "the first"):
					t.Errorf("%s: %v", e.Code, err)
				}
				if again != nil {
					again.End()
				}
			}
		}
	}
}

// TestStateTakesNoChange: where the state takes no answer, the process remembers it.
func TestStateTakesNoChange(t *testing.T) {
	b := newBench(t, &memory{rows: map[string]*idempotency.Row{}, fail: errors.New("away")}, "one")
	b.wants("", "first")(b.ask("user a", key, "x", "first"))
	b.wants("", "first")(b.ask("user a", key, "x", "second"))
	b.wants(fault.KeyReused, "another request")(b.ask("user a", key, "y", "second"))
}

func FuzzParseKey(f *testing.F) {
	for _, s := range []string{"", "sixteen-letters.", `"sixteen \" and \\"`, `"`, `"\`, strings.Repeat("a", 256)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		k, err := idempotency.ParseKey(value)
		if err != nil {
			if k != "" || fault.CodeOf(err) != fault.Invalid {
				t.Errorf("%q: %q, %v", value, k, err)
			}
			return
		}
		if len(k) < idempotency.MinKey || len(k) > idempotency.MaxKey || strings.ContainsFunc(k, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%q: %q", value, k)
		}
		quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(k) + `"`
		if again, err := idempotency.ParseKey(quoted); err != nil || again != k {
			t.Errorf("%q: %q, %v", quoted, again, err)
		}
	})
}
