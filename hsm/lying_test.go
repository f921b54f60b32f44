package hsm_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
	"holdfast/hsm/process"
	"holdfast/hsm/wire"
)

// liar is a launcher of real module processes whose answers to an operation are exchanged on
// the way, as a library could that has its process in its hands.
type liar struct {
	hsm.Launcher
	op  wire.Op
	lie func(answer []byte) []byte // frame for frame
}

type relayed struct {
	process.Process
	connections []*net.UnixConn
}

func (r relayed) Connections() []*net.UnixConn { return r.connections }

func (l *liar) Start(ctx context.Context, name string, n int) (process.Process, error) {
	p, err := l.Launcher.Start(ctx, name, n)
	if err != nil {
		return nil, err
	}
	r := relayed{Process: p}
	for _, inner := range p.Connections() {
		outer, near, err := socketPair()
		if err != nil {
			return nil, err
		}
		r.connections = append(r.connections, outer)
		go l.relay(near, inner)
	}
	return r, nil
}

func socketPair() (a, b *net.UnixConn, err error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix"}) // of a name of its own
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if a, err = net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr)); err != nil {
		return nil, nil, err
	}
	b, err = l.AcceptUnix()
	return a, b, err
}

func (l *liar) relay(near, inner *net.UnixConn) {
	defer near.Close()
	defer inner.Close()
	for {
		question, err := readFrame(near)
		if err != nil {
			return
		}
		if _, err := inner.Write(question); err != nil {
			return
		}
		for more := true; more; {
			answer, err := readFrame(inner)
			if err != nil {
				return
			}
			more = answer[4] == byte(wire.More)
			// Who lies before the login is ended in it, and SoftHSM2 then leaves half a file.
			if wire.Op(question[4]) == l.op && (l.op != wire.Open || !more) {
				answer = l.lie(answer)
			}
			if _, err := near.Write(answer); err != nil {
				return
			}
		}
	}
}

func readFrame(c net.Conn) ([]byte, error) {
	head := make([]byte, 4)
	if _, err := readFull(c, head); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(head))
	_, err := readFull(c, body)
	return append(head, body...), err
}

func readFull(c net.Conn, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = c.Read(b[n:])
		n += m
	}
	return n, err
}

// answerOf makes a frame.
func answerOf(kind wire.Answer, fields ...[]byte) []byte {
	b := []byte{0, 0, 0, 0, byte(kind), 0, 0, 0, 0}
	for _, f := range fields {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(f))), f...)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// TestLyingProcess: whatever a module process answers is an error that names the token, or
// the answer that was asked for in its form; never a panic, and never less than was asked for.
func TestLyingProcess(t *testing.T) {
	lies := map[string]func([]byte) []byte{
		"no field":         func([]byte) []byte { return answerOf(wire.Completed) },
		"an empty field":   func([]byte) []byte { return answerOf(wire.Completed, nil) },
		"three fields":     func([]byte) []byte { return answerOf(wire.Completed, nil, nil, nil) },
		"twenty fields":    func([]byte) []byte { return answerOf(wire.Completed, slices.Repeat([][]byte{{1}}, 20)...) },
		"another kind":     func([]byte) []byte { return answerOf(77) },
		"no error's text":  func([]byte) []byte { return answerOf(wire.Failed, []byte("{}")) },
		"no JSON":          func([]byte) []byte { return answerOf(wire.Failed, []byte("{")) },
		"too long a frame": func([]byte) []byte { return []byte{0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0} },
		"too short a one":  func([]byte) []byte { return []byte{0, 0, 0, 1, 1} },
		"a byte less":      func(b []byte) []byte { b = bytes.Clone(b[:len(b)-1]); b[3]--; return b },
		"a long list": func([]byte) []byte {
			return append(bytes.Repeat(answerOf(wire.More, slices.Repeat([][]byte{{1}}, 300)...), 40), answerOf(wire.Completed)...)
		},
	}
	cfg := hsmtest.New(t)
	open(t, cfg) // makes its keys
	secret := []byte("0123456789abcdef0123456789abcdef")
	asks := map[wire.Op]func(token *hsm.Token) error{
		wire.Open:    nil,
		wire.Prepare: nil,
		wire.Info:    func(token *hsm.Token) error { _, err := token.Info(ctx); return err },
		wire.Random: func(token *hsm.Token) error {
			b, err := token.Random(ctx, 32)
			if err == nil && len(b) != 32 {
				t.Errorf("%d random bytes", len(b))
			}
			return err
		},
		wire.Encrypt: func(token *hsm.Token) error {
			_, c, tag, err := token.Encrypt(ctx, "holdfast-probe", secret, nil)
			if err == nil && (len(c) != len(secret) || len(tag) != 16) {
				t.Errorf("ciphertext of %d bytes, tag of %d", len(c), len(tag))
			}
			return err
		},
		wire.Decrypt: func(token *hsm.Token) error {
			out, err := token.Decrypt(ctx, "holdfast-probe", make([]byte, 12), secret, make([]byte, 16), nil)
			if err == nil && len(out) != len(secret) {
				t.Errorf("plaintext of %d bytes", len(out))
			}
			return err
		},
		wire.Labels: func(token *hsm.Token) error { _, err := token.KeyLabels(ctx); return err },
		wire.DataObjects: func(token *hsm.Token) error {
			_, err := token.DataObjects(ctx, hsm.ReachAny)
			return err
		},
	}
	for op, ask := range asks {
		for what, lie := range lies {
			t.Run(op.String()+"/"+what, func(t *testing.T) {
				lying := cfg
				l := &liar{Launcher: cfg.Launcher, op: op, lie: lie}
				lying.Launcher = l
				lying.CallTimeout, lying.OpenTimeout = 300*time.Millisecond, 5*time.Second // where the rest of a frame never comes
				token, err := hsm.Open(ctx, lying)
				if err == nil {
					defer token.Close()
					if ask == nil {
						return // in that form
					}
					err = ask(token)
				} else if ask != nil {
					t.Fatal(err)
				}
				if err != nil && (!strings.Contains(err.Error(), cfg.TokenLabel) || strings.Contains(err.Error(), "\n")) {
					t.Errorf("got %v", err)
				}
			})
		}
	}
}

// TestNoLauncher, and one that fails, are told.
func TestNoLauncher(t *testing.T) {
	cfg := hsmtest.New(t)
	cfg.Launcher = nil
	if _, err := hsm.Open(ctx, cfg); err == nil || !strings.Contains(err.Error(), "starts the module's process") {
		t.Errorf("got %v", err)
	}
	cfg.Launcher = process.Child{Program: "/nonexistent"}
	if _, err := hsm.Open(ctx, cfg); err == nil || !strings.Contains(err.Error(), "/nonexistent") {
		t.Errorf("got %v", err)
	}
	cfg.Launcher = process.Child{Program: "/bin/false"}
	if _, err := hsm.Open(ctx, cfg); !errors.Is(err, hsm.ErrUnavailable) || !strings.Contains(err.Error(), "with status 1") {
		t.Errorf("got %v", err)
	}
}
