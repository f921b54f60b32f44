package hsm

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/hsm/dialect"
	"holdfast/hsm/wire"
)

// Tried is what [Try] found out about a token.
type Tried struct {
	// Token is what it says about itself; empty if it was not found.
	Token *Info `json:"token,omitempty"`
	// Found is what its module process found out.
	wire.Found
	// CannotServe says why the token cannot serve; empty if it can.
	CannotServe string `json:"cannot_serve,omitempty"`
	// NoCustodyHSM says why no key can be of custody hsm; empty if one can.
	NoCustodyHSM string `json:"no_custody_hsm,omitempty"`
	// NoLongID says why a CKA_ID of [wire.LongID] bytes cannot be had, which Holdfast does not need.
	NoLongID string `json:"no_long_id,omitempty"`
	// NoDataObjects says why the token takes no data objects; empty if it does.
	NoDataObjects string `json:"no_data_objects,omitempty"`
	// OneProcess says why a second process cannot use the token at the same time; empty if it can.
	OneProcess string `json:"one_process,omitempty"`
	// NotForeign says why crypto11, an implementation that is not Holdfast's, cannot use a key of
	// Holdfast; empty if it can.
	NotForeign string `json:"not_crypto11,omitempty"`
	// Times are of operations, with the way to the module process and back.
	Times []Timed `json:"times,omitempty"`
	// Left is the label of objects that trials have made and that could not be destroyed.
	Left string `json:"left,omitempty"`
}

// Timed is how long an operation takes.
type Timed struct {
	Operation string `json:"operation"`
	// Microseconds is the median.
	Microseconds int64 `json:"microseconds"`
}

// Serves says whether the token can serve.
func (t *Tried) Serves() bool { return t.CannotServe == "" }

// timesEach is how often each operation is done for [Timed].
const timesEach = 9

// trialTimeout is how long a trial may take by default.
const trialTimeout = 20 * time.Second

// sweepTimeout is how long it may take to destroy what trials have made.
const sweepTimeout = 20 * time.Second

// Try tries in a token what Holdfast needs, with objects of its own, which it destroys, also if it
// fails or ctx ends. It touches no others. The PIN is tried once, and used again only when it was accepted;
// logging is called before. Each trial takes at most cfg.OpenTimeout. The error is of ctx, or of the
// settings: what a token lacks is no error.
func Try(ctx context.Context, cfg Config, logging func(*Tried)) (*Tried, error) {
	cfg.MasterKeyLabel = trialLabel()
	cfg.ProbeKeyLabel = cfg.MasterKeyLabel
	if cfg.OpenTimeout <= 0 {
		cfg.OpenTimeout = trialTimeout
	}
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	t := &trying{cfg: &cfg, Tried: &Tried{}}
	err := t.look(ctx)
	switch {
	case err != nil:
	case t.Lacks != "":
		err = errors.New(t.Lacks)
	default:
		logging(t.Tried)
		err = t.open(ctx)
		if errors.Is(err, errNoDialect) && t.wraps() && ctx.Err() == nil {
			err = t.openWrapping(ctx)
		}
	}
	if ctx.Err() != nil {
		if t.Left != "" {
			return nil, fmt.Errorf("%w; objects of the label %s are left in the token: destroy them with the vendor's tool", ctx.Err(), t.Left)
		}
		return nil, ctx.Err()
	}
	if err != nil {
		t.CannotServe = err.Error()
	}
	return t.Tried, nil
}

// trialLabel gives a label for what trials make. It is no longer than the master key's: what takes
// the one takes the other.
func trialLabel() string {
	const begins = "hf-trial-"
	return begins + strings.ToLower(rand.Text())[:len(DefaultMasterKeyLabel)-len(begins)]
}

// trying is a [Try] under way.
type trying struct {
	*Tried
	cfg *Config
	// blob is what was wrapped with the trials' key.
	blob []byte
}

func (t *trying) look(ctx context.Context) error {
	p, err := start(ctx, t.cfg, 1)
	if err != nil {
		return err
	}
	defer p.release()
	defer p.close()
	token, found, err := p.look(ctx)
	if err == nil {
		t.Token, t.Found = &token, found
	}
	return err
}

// look asks the process for what needs no login.
func (p *running) look(ctx context.Context) (i Info, f wire.Found, err error) {
	err = p.opening(ctx, wire.Look, nil, func(fields [][]byte) (err error) {
		if len(fields) != 2 {
			return errAnswer
		}
		if i, err = infoOf(fields[:1]); err == nil {
			f, err = wire.Read[wire.Found](fields[1])
		}
		return err
	}, wire.JSON(p.cfg.settings()))
	return i, f, err
}

// probe opens the token for trials in a process of its own.
func (t *trying) probe(ctx context.Context) (*running, error) {
	p, err := start(ctx, t.cfg, 1)
	if err != nil {
		return nil, err
	}
	if err := p.opening(ctx, wire.Probe, func() {}, t.found(nil), wire.JSON(t.cfg.settings()), t.cfg.PIN); err != nil {
		p.end(err)
		p.close()
		p.release()
		return nil, err
	}
	return p, nil
}

// found reads what was found, into f if it is given.
func (t *trying) found(f *wire.Found) func([][]byte) error {
	return func(fields [][]byte) error {
		if len(fields) != 1 {
			return errAnswer
		}
		read, err := wire.Read[wire.Found](fields[0])
		if err == nil && f != nil {
			*f = read
		}
		return err
	}
}

// open does what needs a login. Whatever comes of it, nothing is left in the token.
func (t *trying) open(ctx context.Context) (err error) {
	p, err := t.probe(ctx)
	if err != nil {
		return err
	}
	defer func() {
		// One that did not come to an end may hang, or be in the middle of something.
		clean := ctx.Err() == nil && !errors.Is(err, ErrUnavailable) && p.sweep(ctx) == nil
		p.end(ErrClosed)
		p.close()
		p.release()
		if !clean && t.sweep() != nil {
			t.Left = t.cfg.MasterKeyLabel
		}
	}()
	for _, name := range []string{wire.TryKey, wire.TryDialect, wire.TrySessions} {
		if err := t.try(ctx, p, name); err != nil {
			return fmt.Errorf("trial %q: %w", name, err)
		}
	}
	if t.Dialect == "" && t.Wrapping == "" {
		return fmt.Errorf("%w: with %q, %s", errNoDialect, t.Dialects[0].Name, t.Dialects[0].Error)
	}
	if t.Dialect != "" {
		t.cfg.Dialect = t.Dialect
	}
	if err := t.keys(ctx, p); err != nil {
		return err
	}
	if err := t.operations(ctx, p); err != nil {
		return err
	}
	return t.others(ctx, p)
}

// errNoDialect: the token lists AES-GCM, and refuses it.
var errNoDialect = errors.New("it has AES-GCM, and none of the dialects works")

// wraps says whether the token lists a mechanism that wraps keys.
func (t *trying) wraps() bool {
	return slices.ContainsFunc(t.Mechanisms, func(m wire.Mechanism) bool { return strings.HasPrefix(m.Name, "CKM_AES_KEY_WRAP") && len(m.Uses) > 1 })
}

// openWrapping tries the token without its AES-GCM.
func (t *trying) openWrapping(ctx context.Context) error {
	spoken := t.Dialects
	t.cfg.Dialect = dialect.KeyWrap
	err := t.open(ctx)
	t.Dialects = spoken
	if t.Wrapping != "" {
		t.Dialect = dialect.KeyWrap
	}
	return err
}

func (t *trying) try(ctx context.Context, p *running, name string) error {
	return p.opening(ctx, wire.Try, nil, t.found(&t.Found), []byte(name))
}

// lack keeps in words what a token refuses; the error is that it is not there any more.
func lack(ctx context.Context, words *string, err error) error {
	if errors.Is(err, ErrUnavailable) || ctx.Err() != nil {
		return err
	}
	if err != nil {
		*words = err.Error()
	}
	return nil
}

// keys tries the names of keys, and data objects.
func (t *trying) keys(ctx context.Context, p *running) error {
	if t.Wrapping != "" {
		t.NoCustodyHSM = "the token lacks CKM_AES_GCM, or refuses it"
	} else if err := lack(ctx, &t.NoCustodyHSM, t.try(ctx, p, wire.TryLabel)); err != nil {
		return err
	}
	if err := lack(ctx, &t.NoLongID, t.try(ctx, p, wire.TryID)); err != nil {
		return err
	}
	label, value := []byte(wire.TrialLabel(t.cfg.MasterKeyLabel)), []byte("trial") // as long as those of data objects
	nothing := func([][]byte) error { return nil }
	err := p.opening(ctx, wire.CreateData, nil, nothing, label, value)
	if err == nil {
		err = p.opening(ctx, wire.DestroyData, nil, nothing, label, value)
	}
	return lack(ctx, &t.NoDataObjects, err)
}

// operations times what a token does most.
func (t *trying) operations(ctx context.Context, p *running) error {
	secret, aad := make([]byte, 32), []byte("trial")
	_, _ = rand.Read(secret) // never fails (crypto/rand)
	ask := func(op wire.Op, fields ...[]byte) func() ([]byte, error) {
		return func() (out []byte, err error) {
			err = p.opening(ctx, op, nil, func(fields [][]byte) error {
				if len(fields) != 1 {
					return errAnswer
				}
				out = slices.Clone(fields[0])
				return nil
			}, fields...)
			return out, err
		}
	}
	random, err := t.time("random", ask(wire.Random, binary.BigEndian.AppendUint32(nil, 32)))
	if err != nil {
		return err
	}
	if len(random) != 32 {
		return errAnswer
	}
	if t.blob, err = t.time("wrap", ask(wire.Wrap, secret, aad)); err != nil {
		return err
	}
	got, err := t.time("unwrap", ask(wire.Unwrap, t.blob, aad))
	if err == nil && !bytes.Equal(got, secret) {
		err = errors.New("what was wrapped comes back as something else")
	}
	return err
}

// time does an operation some times, and keeps the median of how long it took.
func (t *trying) time(name string, operation func() ([]byte, error)) (out []byte, err error) {
	var times []time.Duration
	for range timesEach {
		begun := time.Now()
		if out, err = operation(); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		times = append(times, time.Since(begun))
	}
	slices.Sort(times)
	t.Times = append(t.Times, Timed{name, times[len(times)/2].Microseconds()})
	return out, nil
}

// others tries what other processes can do while p has its session.
func (t *trying) others(ctx context.Context, p *running) error {
	err := t.second(ctx)
	if ctx.Err() != nil {
		return err
	}
	if err != nil {
		t.OneProcess = err.Error()
	}
	if t.Wrapping != "" {
		t.NotForeign = "not tried, for it needs CKM_AES_GCM"
		return nil
	}
	if err := t.foreign(ctx, p); err != nil {
		t.NotForeign = err.Error()
	}
	return ctx.Err()
}

// second has another process use the token, and the trials' key, at the same time.
func (t *trying) second(ctx context.Context) error {
	p, err := t.probe(ctx)
	if err != nil {
		return err
	}
	defer p.release()
	defer p.close()
	return p.opening(ctx, wire.Unwrap, nil, func([][]byte) error { return nil }, t.blob, []byte("trial"))
}

// foreign has crypto11 encrypt with the trials' key, and p decrypt that.
func (t *trying) foreign(ctx context.Context, p *running) error {
	other, err := start(ctx, t.cfg, 1)
	if err != nil {
		return err
	}
	defer other.release()
	defer other.close()
	plaintext, aad := []byte("trial of crypto11"), []byte("trial")
	var sealed [][]byte
	err = other.opening(ctx, wire.Foreign, nil, func(fields [][]byte) error {
		if sealed = clones(fields); len(sealed) != 3 {
			return errAnswer
		}
		return nil
	}, wire.JSON(t.cfg.settings()), t.cfg.PIN, plaintext, aad)
	if err != nil {
		return err
	}
	var got []byte
	err = p.opening(ctx, wire.Decrypt, nil, func(fields [][]byte) error {
		if len(fields) == 1 {
			got = slices.Clone(fields[0])
		}
		return nil
	}, []byte(t.cfg.MasterKeyLabel), sealed[0], sealed[1], sealed[2], aad)
	if err == nil && !bytes.Equal(got, plaintext) {
		err = errors.New("what it encrypts comes back as something else")
	}
	if err != nil {
		return fmt.Errorf("what it encrypts is not decrypted: %w", err)
	}
	return nil
}

// sweep destroys in p what trials have made.
func (p *running) sweep(ctx context.Context) error {
	return p.opening(ctx, wire.Sweep, nil, func([][]byte) error { return nil })
}

// sweep does that in a new process. The PIN was accepted.
func (t *trying) sweep() error {
	ctx, cancel := context.WithTimeout(context.Background(), sweepTimeout)
	defer cancel()
	p, err := t.probe(ctx)
	if err != nil {
		return err
	}
	defer p.release()
	defer p.close()
	return p.sweep(ctx)
}
