package hsm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"holdfast/hsm/process"
	"holdfast/hsm/wire"
)

// Token is an open token. Its methods may be called at once from several
// goroutines.
type Token struct {
	cfg Config

	mu      sync.Mutex
	process *running // nil while the token is lost
	why     error    // why process is nil
	last    *Ending  // of the last process that has ended; nil if none has
	// connecting is held while a process opens the token.
	connecting sync.Mutex
	// closed ends the background work.
	closed     bool
	stop       chan struct{}
	background sync.WaitGroup

	// known is a ciphertext of the master key, made when the token was opened first:
	// after it is opened anew, the master key must be the same.
	known []byte
	// otherKeys says that the token can work with other keys than the master key.
	otherKeys bool
	// starts is how many processes there have been in which the token was open.
	starts int
}

// Look finds the token as [Open] does and gives what it says about itself, without a PIN, a login
// or a key. Errors: [ErrNotFound] for the module or token, [ErrAmbiguous], [ErrPINRefused] for a
// PIN that would not be tried, [ErrUnavailable] if the module does not answer, or an [*Error].
func Look(ctx context.Context, cfg Config) (i Info, err error) {
	if err := cfg.setDefaults(); err != nil {
		return Info{}, err
	}
	p, err := start(ctx, &cfg, 1)
	if err != nil {
		return Info{}, err
	}
	defer p.release()
	defer p.close()
	i, _, err = p.look(ctx)
	return i, err
}

// Open opens the token, logs in once, and finds or makes the master key and the
// probe key. Errors: [ErrNotFound] for the module or token, [ErrAmbiguous],
// [ErrPINRefused], [ErrUnavailable], or an [*Error]. To close it is the caller's part.
func Open(ctx context.Context, cfg Config) (*Token, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	cfg.PIN = append([]byte(nil), cfg.PIN...)
	t := &Token{cfg: cfg, stop: make(chan struct{})}
	p, err := t.connect(ctx)
	if err != nil {
		clear(t.cfg.PIN)
		return nil, err
	}
	t.cfg.MasterKeyExists = true // from here on, also when the token is opened anew
	t.mu.Lock()
	defer t.mu.Unlock()
	t.use(p)
	return t, nil
}

// unanswered has the names of tokens at which the last attempt to log in had no answer: it may
// have counted. It is of the whole program, because whoever opens the token next must know.
var unanswered sync.Map

// connect starts a process and opens the token in it.
func (t *Token) connect(ctx context.Context) (*running, error) {
	t.connecting.Lock()
	defer t.connecting.Unlock()
	p, err := start(ctx, &t.cfg, t.cfg.MaxSessions+1)
	if err != nil {
		return nil, err
	}
	if err := t.open(ctx, p); err != nil {
		p.kill()
		p.release()
		if e, ok := errors.AsType[*Ending](err); ok {
			t.mu.Lock()
			t.last = e
			t.mu.Unlock()
			t.cfg.Ended(t.cfg.label(), e)
		}
		return nil, err
	}
	return p, nil
}

// LastEnding is that of the token's last module process that has ended; nil if none has.
func (t *Token) LastEnding() *Ending {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last
}

func (t *Token) open(ctx context.Context, p *running) error {
	settings := t.cfg.settings()
	_, settings.Unanswered = unanswered.Load(settings.Name())
	tried := false
	var opened wire.Opened
	err := p.opening(ctx, wire.Open, func() {
		tried = true
		unanswered.Store(settings.Name(), true)
	}, func(fields [][]byte) (err error) {
		if len(fields) != 1 {
			return errAnswer
		}
		opened, err = wire.Read[wire.Opened](fields[0])
		return err
	}, wire.JSON(settings), t.cfg.PIN)
	if tried && !errors.Is(err, ErrUnavailable) && ctx.Err() == nil {
		unanswered.Delete(settings.Name())
	}
	if err != nil {
		return err
	}
	if opened.Sessions < 1 || opened.Sessions > t.cfg.MaxSessions {
		return fmt.Errorf("%s: %w", t.cfg.name(), errAnswer)
	}
	makeKey := !opened.MasterKey && !t.cfg.MasterKeyExists
	if makeKey && t.cfg.MakingMasterKey != nil {
		if err := t.cfg.MakingMasterKey(); err != nil {
			return fmt.Errorf("%s: master key %q is not made: %w", t.cfg.name(), t.cfg.MasterKeyLabel, err)
		}
	}
	known := t.known
	err = p.opening(ctx, wire.Prepare, nil, func(fields [][]byte) error {
		if len(fields) != 1 {
			return errAnswer
		}
		known = append([]byte{}, fields[0]...)
		return nil
	}, wire.JSON(wire.Preparation{MakeMasterKey: makeKey}), known)
	if err != nil {
		return err
	}
	if t.known == nil {
		t.known, t.otherKeys = known, opened.OtherKeys
	}
	for _, c := range p.all[1 : 1+opened.Sessions] {
		p.free <- c
	}
	return nil
}

// errAnswer: the module's process gives an answer that does not belong to the question.
var errAnswer = fmt.Errorf("an answer that does not belong to the question: %w", wire.ErrFrame)

func clones(fields [][]byte) [][]byte {
	out := make([][]byte, len(fields))
	for i, f := range fields {
		out[i] = append([]byte{}, f...)
	}
	return out
}

// use has operations go to the process from here on. t.mu is held.
func (t *Token) use(p *running) {
	t.process, t.why = p, nil
	t.starts++
	t.background.Go(func() {
		select {
		case <-t.stop:
		case <-p.Done():
			_ = t.lose(p, p.gone())
		}
	})
}

// Close waits for operations under way, ends the module's process, and zeroizes the PIN.
func (t *Token) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	p := t.process
	t.process, t.why = nil, ErrClosed
	close(t.stop)
	t.mu.Unlock()
	t.background.Wait()
	if p == nil {
		clear(t.cfg.PIN)
		return nil
	}
	p.end(ErrClosed)
	p.underWay.Wait()
	clear(t.cfg.PIN) // which operations took out of what the process said
	p.close()
	p.release()
	return nil
}

// current gives the process, or why there is none.
func (t *Token) current() (*running, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.process == nil {
		return nil, t.why
	}
	return t.process, nil
}

// lose gives a process up and has the token opened in another. It gives the error of the
// token from here on.
func (t *Token) lose(p *running, e *Ending) error {
	lost := fmt.Errorf("%s: %w: %w", t.cfg.name(), ErrUnavailable, e)
	t.mu.Lock() // first: who gets the error finds the process gone
	defer t.mu.Unlock()
	if !p.end(lost) {
		return lost
	}
	p.kill()
	if t.process != p {
		go p.release()
		return lost
	}
	t.process, t.why, t.last = nil, lost, e
	t.tellLost(p, e)
	t.background.Go(func() { t.reopen() })
	t.background.Go(p.release)
	return lost
}

// tellLost logs why the token is lost, and has it put on record. Where systemd has still to say how the process
// ended, nothing else waits for that. t.mu is held.
func (t *Token) tellLost(p *running, e *Ending) {
	log := func(e *Ending) {
		t.cfg.Log.Error("the token is lost and is opened anew", "token", t.cfg.name(), "cause", e.Cause, "error", e, "what_to_do", e.Do())
	}
	select {
	case <-p.Said():
	default:
		if e.Cause == process.Ended {
			t.background.Go(func() {
				<-p.Said()
				known := p.gone()
				known.At = e.At
				t.mu.Lock()
				if t.last == e {
					t.last = known
				}
				t.mu.Unlock()
				log(known)
				t.cfg.Ended(t.cfg.label(), known)
			})
			return
		}
	}
	log(e)
	t.background.Go(func() { t.cfg.Ended(t.cfg.label(), e) })
}

// reopen opens the token until it succeeds, the PIN is refused or Close is
// called.
func (t *Token) reopen() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-t.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	for attempt := 0; ; attempt++ {
		select {
		case <-t.stop:
			return
		case <-time.After(t.cfg.Pause(attempt)):
		}
		p, err := t.connect(ctx)
		t.mu.Lock()
		switch {
		case t.closed:
			t.mu.Unlock()
			if err == nil {
				p.kill()
				p.release()
			}
			return
		case err == nil:
			t.use(p)
			t.mu.Unlock()
			t.cfg.Log.Info("the token is open again", "token", t.cfg.name(), "attempt", attempt+1)
			return
		case errors.Is(err, ErrPINRefused):
			t.why = err
			t.mu.Unlock()
			t.cfg.Log.Error("the token is not opened again", "token", t.cfg.name(), "error", err)
			return
		}
		t.why = away(err)
		t.mu.Unlock()
		t.cfg.Log.Warn("the token could not be opened anew; it is tried again", "token", t.cfg.name(), "attempt", attempt+1, "error", err)
	}
}

// observed are the names of operations for Config.Observe.
var observed = map[wire.Op]string{wire.Info: "Info", wire.Random: "GenerateRandom", wire.Encrypt: "Encrypt", wire.Wrap: "Encrypt", wire.Decrypt: "Decrypt",
	wire.Unwrap: "Decrypt", wire.Generate: "GenerateKey", wire.Import: "CreateObject", wire.CreateData: "CreateObject", wire.Destroy: "DestroyObject",
	wire.DestroyData: "DestroyObject", wire.Labels: "FindObjects", wire.DataObjects: "FindObjects"}

// do has the module's process do one operation, and gives what it answers to use, in one
// part or, if it is a list, in several. It gives up when ctx ends, though the call may go
// on in the module; its session is not used until it is back.
func (t *Token) do(ctx context.Context, op wire.Op, use func(fields [][]byte) error, fields ...[]byte) error {
	p, c, err := t.take(ctx)
	if err != nil {
		return err
	}
	a := &asked{token: t, process: p, conn: c, op: op, until: time.Now().Add(t.cfg.CallTimeout),
		observed: t.cfg.Observe(cmp.Or(t.cfg.TokenLabel, t.cfg.TokenSerial), observed[op])}
	return a.ask(ctx, use, fields)
}

// take gives the process and a connection to it that is free, and counts an operation
// there. It waits for one until ctx ends.
func (t *Token) take(ctx context.Context) (*running, *wire.Conn, error) {
	for {
		p, err := t.current()
		if err != nil {
			return nil, nil, err
		}
		var c *wire.Conn
		select {
		case c = <-p.free:
		default:
			select {
			case c = <-p.free:
			case <-p.renewed:
				continue
			case <-p.Done():
				return nil, nil, t.lose(p, p.gone())
			case <-ctx.Done():
				return nil, nil, fmt.Errorf("%s: no session is free: %w", t.cfg.name(), ctx.Err())
			}
		}
		if p.begin() {
			return p, c, nil
		}
		if now, err := t.current(); err != nil {
			return nil, nil, err
		} else if now == p { // it is about to be given up
			return nil, nil, fmt.Errorf("%s: %w", t.cfg.name(), ErrUnavailable)
		}
	}
}

// asked is an operation under way.
type asked struct {
	token    *Token
	process  *running
	conn     *wire.Conn
	op       wire.Op
	until    time.Time // when the process is ended if there is no answer
	observed func(error)
}

// soon is when it is first looked whether the caller still waits: mostly the answer is there long
// before, and to watch a context, or to set a deadline, costs more than that takes.
const soon = 100 * time.Millisecond

func (a *asked) ask(ctx context.Context, use func([][]byte) error, fields [][]byte) error {
	until := a.until
	if d, ok := ctx.Deadline(); ok && d.Before(until) {
		until = d
	}
	look, err := a.look(until)
	if err != nil {
		return a.lost(err)
	}
	question := wire.Message{Kind: byte(a.op), Within: time.Until(until), Fields: fields}
	err = a.conn.Ask(question, use)
	if b := late(err); b != nil && look.Before(until) {
		err = a.watched(ctx, until, func() error {
			if b.Unsent {
				return a.conn.Ask(question, use)
			}
			return a.conn.Await(use)
		})
	}
	if b := late(err); b != nil && (ctx.Err() != nil || until.Before(a.until)) {
		<-ctx.Done() // the same moment, by another clock
		err = fmt.Errorf("%s: the token did not answer: %w", a.token.cfg.name(), ctx.Err())
		if b.Unsent {
			a.process.free <- a.conn
			a.done(err)
		} else {
			go a.await()
		}
		return err
	}
	return a.end(err)
}

// late gives the failure of a connection by its deadline; nil if err is another.
func late(err error) *wire.Broken {
	if b, ok := errors.AsType[*wire.Broken](err); ok && errors.Is(b.Err, os.ErrDeadlineExceeded) {
		return b
	}
	return nil
}

// look sets the connection's deadline to a time soon, until at the latest, and gives it.
func (a *asked) look(until time.Time) (time.Time, error) {
	now := time.Now()
	if d := a.conn.Deadline(); d.After(now.Add(soon/2)) && !d.After(now.Add(soon)) && !d.After(until) {
		return d, nil // of the operation before
	}
	if d := now.Add(soon); d.Before(until) {
		until = d
	}
	return until, a.conn.SetDeadline(until)
}

// watched calls f with the deadline, or as soon as ctx ends.
func (a *asked) watched(ctx context.Context, until time.Time, f func() error) error {
	if err := a.conn.SetDeadline(until); err != nil {
		return &wire.Broken{Err: err}
	}
	cancelled := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cancelled)
		_ = a.conn.SetDeadline(time.Unix(1, 0)) // long ago
	})
	err := f()
	if !stop() {
		<-cancelled
	}
	return err
}

// await waits for the answer that nobody waits for any more.
func (a *asked) await() {
	if err := a.conn.SetDeadline(a.until); err != nil {
		_ = a.lost(err)
		return
	}
	_ = a.end(a.conn.Await(func([][]byte) error { return nil }))
}

// end ends the operation with what came of it.
func (a *asked) end(err error) error {
	if b, ok := errors.AsType[*wire.Broken](err); ok {
		return a.lost(b.Err)
	}
	switch {
	case err == nil:
	case errors.Is(err, wire.ErrFrame):
		return a.lost(err)
	case errors.Is(err, ErrUnavailable):
		a.done(err)
		return a.token.lose(a.process, lostToken(err))
	default:
		err = fmt.Errorf("%s: %w", a.token.cfg.name(), err)
	}
	a.process.free <- a.conn
	a.done(err)
	return err
}

// lost ends the operation on a connection that is of no use.
func (a *asked) lost(err error) error {
	e := a.process.broken(err)
	if e.Cause == Hung {
		e.Why = fmt.Sprintf("%s did not end in %s; the module's process is ended", a.op, a.token.cfg.CallTimeout)
	}
	a.done(e)
	return a.token.lose(a.process, e)
}

func (a *asked) done(err error) {
	a.observed(err)
	a.process.underWay.Done()
}
