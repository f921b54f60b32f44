package appliance

import (
	"context"
	"fmt"
	"time"

	"holdfast/appliance/fault"
)

// Witness tells a time that irreversible things may rest on: the wall clock, as far as
// other clocks have witnessed that so much time has passed (package appliance/witness).
type Witness interface {
	// Begin gives it a time that was witnessed earlier, to go on from; once.
	Begin(at time.Time)
	// Confirm has it go on from a time that a person says has passed.
	Confirm(at time.Time)
	// Look has it read all clocks. Run calls it once a minute.
	Look()
	// Now gives the witnessed time; zero before Begin.
	Now() time.Time
	// Waits says by how much that is behind the wall clock, and why it does not move; nil
	// if it does.
	Waits() (behind time.Duration, why error)
}

// WitnessedTimeRow is the witnessed time, as it is stored.
type WitnessedTimeRow struct {
	At   time.Time
	Seal []byte
}

// WitnessedTimeRows keeps the witnessed time of this machine.
type WitnessedTimeRows interface {
	// WitnessedTime gives it; fault.NotFound.
	WitnessedTime(ctx context.Context) (*WitnessedTimeRow, error)
	// KeepWitnessedTime replaces it, without raising the anchor: an older one only makes
	// what waits wait longer.
	KeepWitnessedTime(ctx context.Context, row *WitnessedTimeRow) error
}

// witnessedTime is the time that what cannot be undone rests on, and keeps it over a
// restart.
type witnessedTime struct {
	ground  ground
	witness Witness
	rows    WitnessedTimeRows // nil: it is not kept
	service *Service
	told    bool // that it is behind; of Run's goroutine
}

// wallClock is the witness where none is given.
type wallClock struct{ now func() time.Time }

func (wallClock) Begin(time.Time)               {}
func (wallClock) Confirm(time.Time)             {}
func (wallClock) Look()                         {}
func (w wallClock) Now() time.Time              { return w.now() }
func (wallClock) Waits() (time.Duration, error) { return 0, nil }

// notKept is how far the witnessed time begins behind the wall clock in an installation
// that has none: one that was restored, or that is of a release before. The longest
// waiting period: no key in it is destroyed on the word of the wall clock alone.
const notKept = MaxDeletionDays * 24 * time.Hour

func (w *witnessedTime) binding(installation string, at time.Time) Binding {
	return Binding{Purpose: "witnessed-time", Fields: []string{installation, BindTime(at)}}
}

// begin goes on from the time that was kept. Installed says that the installation is new:
// there is nothing yet that could be lost.
func (w *witnessedTime) begin(ctx context.Context, ring Keyring, installation string, installed bool) error {
	if w.rows == nil {
		w.witness.Begin(w.ground.now())
		return nil
	}
	row, err := w.rows.WitnessedTime(ctx)
	if err == nil && ring.Verify(w.binding(installation, row.At), row.Seal) != nil {
		// All rows match their manifest, so people have accepted them as they are.
		w.ground.log.Error("the witnessed time in the database does not match its seal, and is not used")
		err = fault.Errorf(fault.NotFound, "none that matches its seal")
	}
	switch {
	case fault.CodeOf(err) == fault.NotFound && installed:
		w.witness.Begin(w.ground.now())
	case fault.CodeOf(err) == fault.NotFound:
		w.witness.Begin(w.ground.now().Add(-notKept))
	case err != nil:
		return err
	default:
		w.witness.Begin(row.At)
	}
	return w.write(ctx, ring, installation)
}

func (w *witnessedTime) write(ctx context.Context, ring Keyring, installation string) error {
	at := w.witness.Now().UTC().Truncate(time.Millisecond)
	seal, err := ring.Seal(w.binding(installation, at), nil)
	if err != nil {
		return err
	}
	return w.rows.KeepWitnessedTime(ctx, &WitnessedTimeRow{At: at, Seal: seal})
}

// keep stores the witnessed time. It is done while the appliance is unlocked, as work in
// the background.
func (w *witnessedTime) keep(ctx context.Context) {
	if w.rows == nil {
		return
	}
	v, err := w.service.view()
	if err != nil {
		return
	}
	in, err := w.service.store.Installation(ctx)
	if err == nil {
		err = w.write(ctx, v.ring, in.ID)
	}
	if err != nil && fault.CodeOf(err) != fault.Locked {
		w.ground.log.Error("the witnessed time could not be kept in the state", "error", err)
	}
}

// look reads all clocks, and tells when the wall clock and the time that passes part.
func (w *witnessedTime) look() {
	w.witness.Look()
	waits := w.state().Waits
	if told := waits != ""; told != w.told {
		w.told = told
		if told {
			w.ground.log.Warn("keys that are due and audit records past their age wait", "reason", waits)
		} else {
			w.ground.log.Info("the wall clock agrees with the time that has passed")
		}
	}
}

// due gives the time by which what cannot be undone is due: that of the clock that says
// less. It is zero before the first unlock.
func (w *witnessedTime) due() time.Time {
	now, witnessed := w.ground.now(), w.witness.Now()
	if witnessed.Before(now) {
		return witnessed
	}
	return now
}

// begins gives the time from which what cannot be undone waits: that of the clock that
// says more.
func (w *witnessedTime) begins() time.Time {
	now, witnessed := w.ground.stamp(), w.witness.Now().UTC().Truncate(time.Millisecond)
	if witnessed.After(now) {
		return witnessed
	}
	return now
}

// ClockState is what is known of the time.
type ClockState struct {
	// Witnessed is the time by which keys are destroyed and audit records removed.
	Witnessed time.Time `json:"witnessed,omitzero" jsonschema:"The time by which keys are destroyed and audit records removed."`
	// BehindSeconds is by how much it is behind the wall clock; negative if that is behind.
	BehindSeconds int `json:"behind_seconds,omitempty" jsonschema:"By how many seconds the witnessed time is behind the wall clock; negative if it is ahead."`
	// Waits says why what is due waits; empty if it does not.
	Waits string `json:"waits,omitempty" jsonschema:"Why what is due waits; absent if it does not."`
}

// apart is from when on the difference of the two clocks is told.
const apart = 10 * time.Minute

func (w *witnessedTime) state() ClockState {
	behind, why := w.witness.Waits()
	s := ClockState{Witnessed: w.witness.Now(), BehindSeconds: int(behind / time.Second)}
	switch {
	case why != nil:
		s.Waits = fmt.Sprintf("no time is witnessed: %s", why)
	case behind > apart:
		s.Waits = fmt.Sprintf("the wall clock is %s ahead of the time that has passed: the machine was off, or its clock was set forward. Both agree again after %[1]s of running; or a person who knows the time calls holdfast clock confirm --time TIME --reason TEXT", behind.Round(time.Second))
	case behind < -apart:
		s.Waits = fmt.Sprintf("the wall clock is %s behind the time that has passed: it was set back; compare it with another clock", (-behind).Round(time.Second))
	}
	return s
}

// deletionWaits says why a key whose waiting period is over by the wall clock is not
// destroyed yet; empty if it is not over.
func (w *witnessedTime) deletionWaits(k *ExternalKey) string {
	if k.State != KeyPendingDeletion || k.DeletionAt.IsZero() || k.DeletionAt.After(w.ground.now()) || !k.DeletionAt.After(w.due()) {
		return ""
	}
	left := k.DeletionAt.Sub(w.witness.Now())
	return fmt.Sprintf("it is due by the wall clock, and waits for at least %s more: %s", (left / 2).Round(time.Second), w.state().Waits)
}

// KeepWitnessedTime stores the time that is witnessed, so that a restart goes on from it.
// Run does it every ten minutes and at its end.
func (l *Lifecycle) KeepWitnessedTime(ctx context.Context) { l.time.keep(ctx) }

// ConfirmTime has what is due go by a time that a person says has passed, since the
// machine was off. It is the third way besides the wall clock and the time that passes.
// Errors: those of CheckConfirmTime.
func (l *Lifecycle) ConfirmTime(ctx context.Context, at time.Time) (ClockState, error) {
	if err := l.CheckConfirmTime(ctx, at); err != nil {
		return ClockState{}, err
	}
	l.time.witness.Confirm(at)
	l.time.keep(ctx)
	return l.time.state(), nil
}

// CheckConfirmTime gives the error that ConfirmTime would, and changes nothing:
// fault.Locked; fault.Invalid for a time that is later than the wall clock's;
// fault.Conflict if so much has passed already.
func (l *Lifecycle) CheckConfirmTime(_ context.Context, at time.Time) error {
	if _, err := l.service.view(); err != nil {
		return err
	}
	if now := l.now(); at.After(now) {
		return fault.Errorf(fault.Invalid, "%s has not come yet: the clock says %s; set the clock first, or give an earlier time", at.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if witnessed := l.time.witness.Now(); !at.After(witnessed) {
		return fault.Errorf(fault.Conflict, "there is nothing to confirm: the time %s has passed by all clocks, which say %s", at.UTC().Format(time.RFC3339), witnessed.UTC().Format(time.RFC3339))
	}
	return nil
}
