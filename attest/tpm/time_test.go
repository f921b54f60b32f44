package tpm_test

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// TestTime: the TPM's time passes as ours does, begins again at a start, and is not moved
// by who sets the TPM's clock.
func TestTime(t *testing.T) {
	dir := t.TempDir()
	dev, p := start(t, dir)
	began := time.Now()
	first := must(dev.Time())
	bound := func(what string, passed time.Duration) {
		t.Helper()
		if most := time.Since(began) + time.Second; passed < 0 || passed > most {
			t.Errorf("%s: %v have passed by the TPM, and at most %v by ours", what, passed, most)
		}
	}
	second := must(dev.Time())
	if second <= first {
		t.Errorf("%v after %v", second, first)
	}
	bound("at once", second-first)
	err := dev.Do(func(tt transport.TPM) error {
		clock, err := tpm2.ReadClock{}.Execute(tt)
		if err != nil {
			return err
		}
		// TPM2_ClockSet by the owner, with an empty password; the library does not have it.
		command := append([]byte{0x80, 0x02, 0, 0, 0, 0, 0, 0, 1, 0x28}, 0x40, 0, 0, 1, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0)
		command = binary.BigEndian.AppendUint64(command, clock.CurrentTime.ClockInfo.Clock+uint64((365*24*time.Hour).Milliseconds()))
		binary.BigEndian.PutUint32(command[2:], uint32(len(command)))
		answer, err := tt.Send(command)
		if err == nil && binary.BigEndian.Uint32(answer[6:]) != 0 {
			err = fmt.Errorf("TPM2_ClockSet: %x", answer)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	bound("with its clock set by a year", must(dev.Time())-first)
	wantNothingLoaded(t, dev)
	p.Stop()
	if _, err := dev.Time(); err == nil {
		t.Error("a TPM that is off tells the time")
	}
	began = time.Now()
	dev, _ = start(t, dir)
	bound("after a start", must(dev.Time()))
}
