package module

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/hsm/wire"
)

// Serve answers on the first connection until it ends: the process ends then. On it come
// [wire.Look], or [wire.Open] and [wire.Prepare], before anything comes on another. It
// answers on those that accept gives as well, until that fails. Confined says how the process is. The error is why it ends.
func Serve(confined string, first wire.Stream, accept func() (wire.Stream, error)) error {
	s := &server{confined: confined}
	go func() {
		for {
			stream, err := accept()
			if err != nil {
				return // there are no more
			}
			go func() { _ = s.serve(stream) }() // the other side knows why
		}
	}()
	err := s.serve(first)
	if t := s.current(); t != nil {
		if t.tried {
			_ = t.sweep(time.Now().Add(endGrace)) // also if who asked for trials has gone
		}
		t.close()
	}
	return err
}

// close ends the use of the token, so that the HSM need not find out by itself.
func (t *token) close() {
	_ = t.module.CloseAllSessions(t.slot) // the process ends, whatever this says
	_ = t.module.Finalize()
}

// server is the token once it is open.
type server struct {
	confined string

	mu    sync.Mutex
	token *token
}

func (s *server) serve(stream wire.Stream) error {
	c, err := wire.NewConn(stream)
	if err != nil {
		_ = stream.Close() // so that the other side does not wait
		return err
	}
	defer func() { _ = c.Close() }() // it has ended
	for m, err := c.Receive(); ; {
		if err != nil {
			return err
		}
		answer, failed := s.answer(c, m)
		c.Done() // what was asked is not needed any more
		err = c.Put(answer.fields, failed)
		answer.clear()
		if err == nil {
			m, err = c.Next()
		}
	}
}

// answer is the fields of an answer.
type answer struct {
	fields [][]byte
	secret bool
}

func (a answer) clear() {
	if a.secret {
		for _, f := range a.fields {
			clear(f)
		}
	}
}

// memory is what this process has of the machine's, in bytes; 0 if it cannot be read.
func memory() int64 {
	text, err := os.ReadFile("/proc/self/statm") // size and resident part, in pages (proc_pid_statm(5))
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// fieldsOf says how many fields the request of each operation has.
var fieldsOf = map[wire.Op]int{wire.Look: 1, wire.Open: 2, wire.Prepare: 2, wire.Info: 0, wire.Random: 1, wire.Encrypt: 3, wire.Decrypt: 5, wire.Wrap: 2,
	wire.Unwrap: 2, wire.Generate: 1, wire.Import: 2, wire.Destroy: 1, wire.Labels: 0, wire.DataObjects: 0, wire.CreateData: 2, wire.DestroyData: 2,
	wire.Probe: 2, wire.Try: 1, wire.Foreign: 4, wire.Sweep: 0}

func (s *server) answer(c *wire.Conn, m wire.Message) (answer, error) {
	op, f, until := wire.Op(m.Kind), m.Fields, time.Now().Add(m.Within)
	n, known := fieldsOf[op]
	if !known || len(f) != n {
		return answer{}, fmt.Errorf("%s with %d fields is not known here", op, len(f))
	}
	switch op {
	case wire.Look:
		return s.look(f)
	case wire.Open, wire.Probe:
		return s.open(c, op, f)
	case wire.Foreign:
		return foreign(f)
	}
	t := s.current()
	if t == nil {
		return answer{}, errors.New("the token is not open")
	}
	switch op {
	case wire.Prepare:
		return t.prepared(f)
	case wire.Try:
		return t.try(string(f[0]), until)
	case wire.Sweep:
		return answer{}, t.sweep(until)
	case wire.Labels, wire.DataObjects:
		return answer{}, t.list(c, op, until)
	case wire.Info:
		i, err := t.info(until)
		i.Process = wire.Process{PID: os.Getpid(), MemoryBytes: memory(), Confined: s.confined}
		return answer{fields: [][]byte{wire.JSON(i)}}, err
	case wire.Random, wire.Wrap, wire.Unwrap, wire.Encrypt, wire.Decrypt:
		return t.crypto(op, f, until)
	}
	return answer{}, t.change(op, f, until)
}

func (s *server) current() *token {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token
}

func (s *server) look(f [][]byte) (answer, error) {
	settings, err := wire.Read[wire.Settings](f[0])
	if err != nil {
		return answer{}, err
	}
	t, info, err := load(settings)
	if err == nil {
		err = t.mayLogIn(info)
	}
	if err != nil {
		return answer{}, err
	}
	found, err := t.describe()
	return answer{fields: [][]byte{wire.JSON(facts(info)), wire.JSON(found)}}, err
}

func (s *server) open(c *wire.Conn, op wire.Op, f [][]byte) (answer, error) {
	settings, err := wire.Read[wire.Settings](f[0])
	if err != nil {
		return answer{}, err
	}
	if s.current() != nil {
		return answer{}, errors.New("the token is open already")
	}
	before := func() error { return c.Answer(wire.More, nil, nil) }
	var t *token
	var opened any
	if op == wire.Probe {
		t, opened, err = openForTrials(settings, f[1], before)
	} else {
		t, opened, err = open(settings, f[1], before)
	}
	if err != nil {
		return answer{}, err
	}
	s.mu.Lock()
	s.token = t
	s.mu.Unlock()
	return answer{fields: [][]byte{wire.JSON(opened)}}, nil
}

func (t *token) prepared(f [][]byte) (answer, error) {
	p, err := wire.Read[wire.Preparation](f[0])
	if err != nil {
		return answer{}, err
	}
	known := sealed{}
	if len(f[1]) > 0 {
		if known, err = parse(clone(f[1])); err != nil {
			return answer{}, fmt.Errorf("%s: %w", t.settings.Name(), err)
		}
	}
	if known, err = t.prepare(p, known); err != nil {
		return answer{}, fmt.Errorf("%s: %w", t.settings.Name(), err)
	}
	return answer{fields: [][]byte{known.blob()}}, nil
}

func clone(b []byte) []byte { return append([]byte(nil), b...) }

// mostRandom bounds how many random bytes are asked for at once.
const mostRandom = 64 << 10

func (t *token) crypto(op wire.Op, f [][]byte, until time.Time) (answer, error) {
	var out []byte
	var s sealed
	var err error
	switch op {
	case wire.Random:
		if len(f[0]) != 4 || binary.BigEndian.Uint32(f[0]) > mostRandom {
			return answer{}, fmt.Errorf("at most %d random bytes are asked for at once", mostRandom)
		}
		out, err = t.random(until, int(binary.BigEndian.Uint32(f[0])))
	case wire.Wrap:
		out, err = t.wrapSecret(until, f[0], f[1])
	case wire.Unwrap:
		out, err = t.unwrapSecret(until, f[0], f[1])
	case wire.Encrypt:
		s, err = t.encryptWith(until, string(f[0]), f[1], f[2])
		return answer{fields: [][]byte{s.iv, s.ciphertext, s.tag}}, err
	case wire.Decrypt:
		out, err = t.decryptWith(until, string(f[0]), sealed{iv: f[1], ciphertext: f[2], tag: f[3]}, f[4])
	}
	return answer{fields: [][]byte{out}, secret: true}, err
}

func (t *token) change(op wire.Op, f [][]byte, until time.Time) error {
	label := string(f[0])
	switch op {
	case wire.Generate:
		return t.generateKey(until, label)
	case wire.Import:
		return t.importKey(until, label, f[1])
	case wire.Destroy:
		return t.destroyKey(until, label)
	case wire.CreateData:
		return t.createData(until, dataObject{label, f[1]})
	}
	return t.destroyData(until, dataObject{label, f[1]})
}

// list sends a list in parts of at most so many items.
const part = 20

func (t *token) list(c *wire.Conn, op wire.Op, until time.Time) error {
	var fields [][]byte
	if op == wire.Labels {
		labels, err := t.keyLabels(until)
		if err != nil {
			return err
		}
		for _, l := range labels {
			fields = append(fields, []byte(l))
		}
	} else {
		objects, err := t.dataObjects(until)
		if err != nil {
			return err
		}
		for _, o := range objects {
			fields = append(fields, []byte(o.label), o.value)
		}
	}
	for len(fields) > 0 {
		n := min(len(fields), 2*part)
		if err := c.Answer(wire.More, fields[:n], nil); err != nil {
			return err
		}
		fields = fields[n:]
	}
	return nil
}
