package sqlite_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"errors"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/sqlite"
	"holdfast/appliance/storetest"
)

const walHeader, walFrame = 32, 24 + 4096

// logged is a database with its log after each of some changes, as a crash leaves them.
type logged struct {
	database []byte
	logs     [][]byte // after each change
	before   []byte   // the log of before it was begun again
}

func newLogged(t *testing.T) *logged {
	t.Helper()
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "holdfast.db")
	s := openSQLite(t, path)
	l := &logged{}
	read := func(suffix string) []byte { return storetest.Got(os.ReadFile(path + suffix))(t) }
	o := storetest.StateOptions()
	o.Seal = true
	storetest.Got(s.OpenState(ctx, o))(t)
	for i := range 4 { // more than two changes of later
		storetest.Must(t, s.CreateKeyStore(ctx, storetest.KeyStore(i+1)))
	}
	l.before = read("-wal")
	storetest.Must(t, s.Close())
	s = openSQLite(t, path)
	storetest.Got(s.OpenState(ctx, storetest.StateOptions()))(t)
	l.database = read("")
	for i := range 5 {
		storetest.Must(t, s.CreateKeys(ctx, storetest.NewKey(storetest.KeyStore(1), fmt.Sprint("k", i))))
		l.logs = append(l.logs, read("-wal"))
	}
	storetest.Must(t, s.Close())
	return l
}

// open opens the database with a log. Keys is how many keys there are then, lost why the state
// is not opened.
func (l *logged) open(t *testing.T, log []byte) (path string, keys int, lost error) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "holdfast.db")
	storetest.Must(t, os.WriteFile(path, l.database, 0o600))
	storetest.Must(t, os.WriteFile(path+"-wal", log, 0o600))
	keys, lost = openLogged(t, path, storetest.StateOptions())
	return path, keys, lost
}

func openLogged(t *testing.T, path string, o appliance.StateOptions) (keys int, lost error) {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	storetest.Must(t, err)
	defer func() { storetest.Must(t, s.Close()) }()
	keys = storetest.Got(s.CountKeys(t.Context(), storetest.ID(1)))(t)
	_, lost = s.OpenState(t.Context(), o)
	return keys, lost
}

// TestTornLog: a log whose last change was torn by a crash, at whatever byte, has lost nothing
// that was answered. Behind it there may be nothing, or what was there before the log was
// begun again.
func TestTornLog(t *testing.T) {
	l := newLogged(t)
	const n = 2 // after few changes there is an earlier log behind, and little to read each time
	from, to := len(l.logs[n-2]), len(l.logs[n-1])
	if len(l.before) < to {
		t.Fatalf("the log of before has %d bytes, fewer than %d", len(l.before), to)
	}
	if to-from < 2*walFrame {
		t.Fatalf("the last change has %d bytes", to-from)
	}
	for at := from; at < to; at++ {
		torn := l.logs[n-1][:at]
		if sqlite.LogLoss(torn) {
			t.Fatalf("cut off at %d of %d to %d: loss", at, from, to)
		}
		if sqlite.LogLoss(append(bytes.Clone(torn), l.before[at:]...)) {
			t.Fatalf("torn at %d of %d to %d, over an earlier log: loss", at, from, to)
		}
		if (at-from)%997 == 0 {
			if _, keys, err := l.open(t, torn); err != nil || keys != n-1 {
				t.Errorf("cut off at %d: %d keys, %v", at, keys, err)
			}
		}
	}
	if _, keys, err := l.open(t, l.logs[n-1]); err != nil || keys != n {
		t.Errorf("whole: %d keys, %v", keys, err)
	}
	for at := range walHeader { // it is written before any frame
		if sqlite.LogLoss(l.logs[0][:at]) {
			t.Errorf("cut off at %d: loss", at)
		}
	}
}

// TestLossInLog: damage in the middle of the log is loss, at each start until people accept
// it; what was whole before is there.
func TestLossInLog(t *testing.T) {
	l := newLogged(t)
	n := len(l.logs)
	whole := l.logs[n-1]
	for at := 0; at < len(whole); at += 1024 {
		garbled := bytes.Clone(whole)
		for i := at; i < min(at+16, len(garbled)); i++ {
			garbled[i] ^= 0x5a
		}
		path, keys, err := l.open(t, garbled)
		switch {
		case at >= len(whole)-walFrame && err == nil: // the end of the last change: as a crash leaves it
			storetest.Equal(t, keys, n-1)
			continue
		case keys == n && err == nil:
			t.Errorf("garbled at %d, and it is whole", at)
			continue
		}
		storetest.Wants(t, err, fault.StateLoss, "changes that were answered are missing")
		again, err := openLogged(t, path, storetest.StateOptions())
		storetest.Wants(t, err, fault.StateLoss, "")
		storetest.Equal(t, again, keys)
		if at%(8*1024) != 0 {
			continue
		}
		founding := storetest.StateOptions()
		founding.Seal, founding.Installed = true, &appliance.Installation{ID: storetest.ID(1), CreatedAt: founding.Now()}
		_, err = openLogged(t, path, founding)
		storetest.Wants(t, err, fault.StateLoss, "")
		accepted := storetest.StateOptions()
		accepted.Seal = true
		for range 2 {
			_, err = openLogged(t, path, accepted)
			storetest.Must(t, err)
			accepted.Seal = false
		}
		if _, err := os.Stat(path + "-wal.lost"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the copy of the log is still there: %v", err)
		}
	}
}

// TestLossOfLastChange: a last change whose end is in the log, and whose beginning is not, may be
// of a power failure: the anchor says whether it is missing. Without one it counts as
// missing.
func TestLossOfLastChange(t *testing.T) {
	l := newLogged(t)
	n := len(l.logs)
	garbled := bytes.Clone(l.logs[n-1])
	garbled[len(l.logs[n-2])+100] ^= 1
	path, keys, err := l.open(t, garbled)
	storetest.Equal(t, keys, n-1)
	storetest.Wants(t, err, fault.StateLoss, "")
	anchored := storetest.StateOptions()
	anchored.Anchoring = noAnchor{}
	for _, o := range []appliance.StateOptions{anchored, storetest.StateOptions()} {
		_, err = openLogged(t, path, o)
		storetest.Must(t, err)
	}
	// Not where another change follows: then it was answered.
	garbled = bytes.Clone(l.logs[n-1])
	garbled[len(l.logs[n-3])+100] ^= 1
	path, _, _ = l.open(t, garbled)
	_, err = openLogged(t, path, anchored)
	storetest.Wants(t, err, fault.StateLoss, "")
}

// TestLostCopy: a copy of the log that was changed says that something is lost.
func TestLostCopy(t *testing.T) {
	l := newLogged(t)
	path := filepath.Join(t.TempDir(), "holdfast.db")
	storetest.Must(t, os.WriteFile(path, l.database, 0o600))
	storetest.Must(t, os.WriteFile(path+"-wal.lost", nil, 0o600))
	_, err := openLogged(t, path, storetest.StateOptions())
	storetest.Wants(t, err, fault.StateLoss, "")
}

type noAnchor struct{}

func (noAnchor) Next() (string, uint64) { return "", 0 }
func (noAnchor) Committed(uint64)       {}
