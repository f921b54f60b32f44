package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/hsm/wire"
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// pair gives two ends of a socket.
func pair(t testing.TB) (a, b *wire.Conn, raw net.Conn) {
	t.Helper()
	l := must(net.Listen("unix", t.TempDir()+"/s"))(t)
	defer l.Close()
	one := must(net.Dial("unix", l.Addr().String()))(t)
	other := must(l.Accept())(t)
	a, b = must(wire.NewConn(one))(t), must(wire.NewConn(other))(t)
	t.Cleanup(func() { _ = errors.Join(a.Close(), b.Close()) })
	return a, b, one
}

// TestMessages: what is sent comes, also if it is empty, none, or larger than the memory a
// connection begins with.
func TestMessages(t *testing.T) {
	a, b, _ := pair(t)
	for _, fields := range [][][]byte{nil, {{}}, {{}, {1}, {}}, {bytes.Repeat([]byte{7}, 100_000), []byte("x")}, {[]byte("small again")}} {
		sent := make(chan error, 1)
		go func() { sent <- a.Send(wire.Message{Kind: 9, Within: 1500 * time.Millisecond, Fields: fields}) }()
		m, err := b.Receive()
		if err = errors.Join(err, <-sent); err != nil {
			t.Fatal(err)
		}
		if m.Kind != 9 || m.Within != 1500*time.Millisecond || len(m.Fields) != len(fields) {
			t.Errorf("%d fields: %+v", len(fields), m)
		}
		for i := range fields {
			if !bytes.Equal(m.Fields[i], fields[i]) {
				t.Errorf("field %d has %d bytes, not %d", i, len(m.Fields[i]), len(fields[i]))
			}
		}
		b.Done()
		for _, f := range m.Fields {
			if !bytes.Equal(f, make([]byte, len(f))) {
				t.Error("a field is there after Done")
			}
		}
	}
	if err := a.Send(wire.Message{Fields: [][]byte{make([]byte, wire.MaxFrame)}}); err == nil {
		t.Error("a frame that is too large was sent")
	}
	if err := a.Send(wire.Message{Fields: make([][]byte, 1000)}); err == nil {
		t.Error("a thousand fields were sent")
	}
}

// TestResume: a deadline in the middle of a frame loses nothing of it.
func TestResume(t *testing.T) {
	a, b, raw := pair(t)
	frame := []byte{0, 0, 0, 12, byte(wire.Completed), 0, 0, 0, 0, 0, 0, 0, 3, 'y', 'e', 's'}
	if err := b.Answer(wire.Completed, [][]byte{[]byte("yes")}, nil); err != nil { // and b reads what a sends
		t.Fatal(err)
	}
	var got string
	use := func(fields [][]byte) error { got = string(fields[0]); return nil }
	if err := a.Await(use); err != nil || got != "yes" {
		t.Fatal(got, err)
	}
	for cut := 1; cut < len(frame); cut++ {
		if _, err := raw.Write(frame[:cut]); err != nil {
			t.Fatal(err)
		}
		if err := b.SetDeadline(time.Now().Add(time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		var broken *wire.Broken
		if err := b.Await(use); !errors.As(err, &broken) || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if err := b.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		if _, err := raw.Write(frame[cut:]); err != nil {
			t.Fatal(err)
		}
		if got = ""; b.Await(use) != nil || got != "yes" {
			t.Errorf("cut at %d: %q", cut, got)
		}
	}
}

// TestAsked: questions and answers go to and fro, also those that the socket does not take at once.
func TestAsked(t *testing.T) {
	a, b, _ := pair(t)
	ended := make(chan error, 1)
	go func() {
		m, err := b.Receive()
		for err == nil {
			fields := slices.Clone(m.Fields)
			slices.Reverse(fields)
			err = b.Put(fields, nil)
			b.Done()
			if err == nil {
				m, err = b.Next()
			}
		}
		ended <- err
	}()
	for _, n := range []int{0, 1, 16 << 10, 250 << 10, 3} {
		one, other := bytes.Repeat([]byte{1}, n), []byte("other")
		err := a.Ask(wire.Message{Kind: 1, Fields: [][]byte{one, other}}, func(fields [][]byte) error {
			if len(fields) != 2 || !bytes.Equal(fields[0], other) || !bytes.Equal(fields[1], one) {
				t.Errorf("%d bytes: the answer is another", n)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Ask(wire.Message{Fields: [][]byte{make([]byte, wire.MaxFrame)}}, nil); err == nil || errors.As(err, new(*wire.Broken)) {
		t.Errorf("too large a question: %v", err) // the connection is as it was
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

// TestUnsent: a question after the deadline is not sent, and the next one has its own answer.
func TestUnsent(t *testing.T) {
	a, b, _ := pair(t)
	if err := a.SetDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	var broken *wire.Broken
	if err := a.Ask(wire.Message{Kind: 1}, nil); !errors.As(err, &broken) || !broken.Unsent || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	if err := a.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	asked := make(chan byte, 1)
	go func() {
		m, err := b.Receive()
		_ = errors.Join(err, b.Answer(wire.Completed, nil, nil)) // Ask says it
		asked <- m.Kind
	}()
	if err := a.Ask(wire.Message{Kind: 2}, func([][]byte) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if kind := <-asked; kind != 2 {
		t.Errorf("question %d was sent", kind)
	}
}

// TestSentFurther: a deadline in the middle of a question loses nothing of it.
func TestSentFurther(t *testing.T) {
	a, b, _ := pair(t)
	large := bytes.Repeat([]byte{7}, 250<<10) // more than a socket has room for
	if err := a.SetDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var broken *wire.Broken
	if err := a.Ask(wire.Message{Kind: 1, Fields: [][]byte{large}}, nil); !errors.As(err, &broken) || broken.Unsent || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	if err := a.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	came := make(chan bool, 1)
	go func() {
		m, err := b.Receive()
		same := err == nil && len(m.Fields) == 1 && bytes.Equal(m.Fields[0], large)
		_ = b.Answer(wire.Completed, nil, nil) // Await says it
		came <- same
	}()
	if err := a.Await(func([][]byte) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if !<-came {
		t.Error("the question came as another")
	}
}

// TestUnasked: what comes behind an answer is not taken for the next one.
func TestUnasked(t *testing.T) {
	one := frame(byte(wire.Completed))
	c := must(wire.NewConn(stream{bytes.NewReader(append(one, one...))}))(t)
	defer c.Close()
	none := func([][]byte) error { return nil }
	if err := c.Ask(wire.Message{Kind: 1}, none); err != nil {
		t.Fatal(err)
	}
	if err := c.Ask(wire.Message{Kind: 1}, none); !errors.Is(err, wire.ErrFrame) {
		t.Errorf("got %v", err)
	}
}

// TestErrors keep their classes and PKCS#11's words on the way.
func TestErrors(t *testing.T) {
	a, b, _ := pair(t)
	value := &wire.Error{Op: "C_Login", Name: "CKR_PIN_INCORRECT", Code: 0xA0}
	sent := fmt.Errorf("token: %w: %w", wire.PINRefused, value)
	if err := b.Answer(wire.Completed, nil, sent); err != nil { // the socket takes it
		t.Fatal(err)
	}
	err := a.Await(func([][]byte) error { return nil })
	var got *wire.Error
	if err == nil || err.Error() != sent.Error() || !errors.Is(err, wire.PINRefused) || errors.Is(err, wire.NotFound) || !errors.As(err, &got) || *got != *value {
		t.Errorf("%v", err)
	}
	if err := b.Answer(wire.Completed, nil, errors.New("plain")); err != nil {
		t.Fatal(err)
	}
	if err := a.Await(func([][]byte) error { return nil }); err == nil || err.Error() != "plain" || errors.As(err, &got) {
		t.Errorf("%v", err)
	}
}

// stream is a socket of which the other side has said that.
type stream struct{ io.Reader }

func (stream) Write(b []byte) (int, error) { return len(b), nil }
func (stream) Close() error                { return nil }
func (stream) SetDeadline(time.Time) error { return nil }
func frame(kind byte, body ...byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(5+len(body))), append([]byte{kind, 0, 0, 0, 0}, body...)...)
}

// FuzzAwait reads what a module process may say: an answer, or an error. It never panics,
// takes no more memory than a frame may have, and gives no field that was not sent.
func FuzzAwait(f *testing.F) {
	f.Add([]byte{})
	f.Add(frame(byte(wire.Completed)))
	f.Add(frame(byte(wire.Completed), 0, 0, 0, 1, 'x'))
	f.Add(frame(byte(wire.Completed), 0, 0, 0, 2, 'x'))
	f.Add(frame(byte(wire.Completed), 0xff, 0xff, 0xff, 0xff))
	f.Add(append(frame(byte(wire.More), 0, 0, 0, 1, 'x'), frame(byte(wire.Completed))...))
	f.Add(frame(byte(wire.Failed), append([]byte{0, 0, 0, 12}, `{"text":"x"}`...)...))
	f.Add(frame(byte(wire.Failed), 0, 0, 0, 2, '{', '}'))
	f.Add(frame(0))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := wire.NewConn(stream{bytes.NewReader(b)})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		got := 0
		err = c.Await(func(fields [][]byte) error {
			for _, f := range fields {
				got += len(f)
				if !bytes.Contains(b, f) {
					t.Errorf("%q was not sent", f)
				}
			}
			return nil
		})
		if got > len(b) || err != nil && (err.Error() == "" || strings.Contains(err.Error(), "%!")) {
			t.Errorf("%d bytes of %d: %v", got, len(b), err)
		}
	})
}
