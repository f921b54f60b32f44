package snapshot_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"holdfast/appliance/fault"
	"holdfast/appliance/snapshot"
)

type table struct {
	snapshot.Table
	rows [][]any
}

// sample has every kind of value at its limits.
func sample() []table {
	return []table{
		{snapshot.Table{Name: "one", Columns: []string{"id", "n", "text", "blob_1"}}, [][]any{
			{"a", int64(0), "", []byte{}},
			{"b", int64(math.MinInt64), "Zürich", []byte{0, 1, 255}},
			{"c", int64(math.MaxInt64), "\xff\x00", nil},
			{nil, int64(-1), strings.Repeat("x", 70_000), bytes.Repeat([]byte{7}, 9000)},
		}},
		{snapshot.Table{Name: "empty", Columns: []string{"c"}}, nil},
		{snapshot.Table{Name: "two", Columns: []string{"c"}}, [][]any{{int64(1)}, {nil}}},
	}
}

func write(w io.Writer, schema uint32, tables []table) error {
	s := snapshot.NewWriter(w, schema)
	for _, t := range tables {
		if err := s.Table(t.Table); err != nil {
			return err
		}
		for _, r := range t.rows {
			if err := s.Row(r); err != nil {
				return err
			}
		}
	}
	return s.Close()
}

func read(r io.Reader) (schema uint32, tables []table, err error) {
	s, err := snapshot.NewReader(r)
	if err != nil {
		return 0, nil, err
	}
	for {
		t, err := s.Table()
		if err != nil || t == nil {
			return s.Schema(), tables, err
		}
		of := table{Table: *t}
		for {
			row, err := s.Row()
			if err != nil {
				return s.Schema(), tables, err
			}
			if row == nil {
				break
			}
			of.rows = append(of.rows, append([]any{}, row...))
		}
		tables = append(tables, of)
	}
}

func encoded(t testing.TB) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := write(&out, 7, sample()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestRoundTrip(t *testing.T) {
	schema, tables, err := read(oneByte{bytes.NewReader(encoded(t))})
	if err != nil || schema != 7 || !reflect.DeepEqual(tables, sample()) {
		t.Fatalf("schema %d, %v: %+v", schema, err, tables)
	}
}

// oneByte gives one byte at a time.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:min(1, len(p))]) }

// TestCutOff: no beginning of a stream is taken for a whole one.
func TestCutOff(t *testing.T) {
	whole := encoded(t)
	for n := range whole {
		if n > 300 && n < len(whole)-300 && n%997 != 0 {
			continue
		}
		if _, _, err := read(bytes.NewReader(whole[:n])); fault.CodeOf(err) != fault.Invalid || err == nil {
			t.Fatalf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
	if _, _, err := read(bytes.NewReader(append(bytes.Clone(whole), 0))); fault.CodeOf(err) != fault.Invalid || !strings.Contains(err.Error(), "follows its end") {
		t.Errorf("with more: %v", err)
	}
}

// TestMalformed: streams that no Writer makes are refused, with what is wrong.
func TestMalformed(t *testing.T) {
	const head = snapshot.Format + "\n\x07"
	columns := func(n int) string {
		text := "T\x01t" + string(rune(n))
		for i := range n {
			text += "\x03" + fmt.Sprintf("c%02d", i)
		}
		return text
	}
	many := head
	for i := range snapshot.MaxTables + 1 {
		many += "T\x03" + fmt.Sprintf("t%02d", i) + "\x01\x01c"
	}
	for name, tt := range map[string]struct{ stream, want string }{
		"nothing":              {"", "cut off"},
		"another format":       {"holdfast-rows/v2\n\x07E\x00", "does not begin"},
		"a schema too large":   {snapshot.Format + "\n\x80\x80\x80\x80\x10E\x00", "at most"},
		"a long number":        {snapshot.Format + "\n\x87\x00E\x00", "malformed"},
		"an endless number":    {snapshot.Format + "\n" + strings.Repeat("\xff", 20), "malformed"},
		"a record of no kind":  {head + "X", "begins with"},
		"a row before a table": {head + "RnE\x01", "where a table"},
		"no columns":           {head + "T\x01t\x00E\x00", "0 columns"},
		"too many columns":     {head + columns(65) + "E\x00", "at most 64"},
		"too many tables":      {many + "E\x00", "more than 64"},
		"a table twice":        {head + "T\x01t\x01\x01cT\x01t\x01\x01cE\x00", "stands twice"},
		"a column twice":       {head + "T\x01t\x02\x01c\x01cE\x00", "stands twice"},
		"a name of no kind":    {head + "T\x02t;\x01\x01cE\x00", "is called"},
		"a column of no kind":  {head + "T\x01t\x01\x02c\"E\x00", "no name"},
		"no name":              {head + "T\x00\x01\x01cE\x00", "is called"},
		"a long name":          {head + "T\x41" + strings.Repeat("a", 65) + "\x01\x01cE\x00", "at most 64"},
		"a value of no kind":   {head + "T\x01t\x01\x01cRx", "a value begins"},
		"a value too long":     {head + "T\x01t\x01\x01cRb\x81\x80\x80\x02", "at most 4194304"},
		"fewer rows":           {head + "T\x01t\x01\x01cRnE\x02", "says at its end that it has 2"},
		"more rows":            {head + "T\x01t\x01\x01cRnE\x00", "says at its end that it has 0"},
		"two ends":             {head + "E\x00E\x00", "follows its end"},
	} {
		_, _, err := read(strings.NewReader(tt.stream))
		if fault.CodeOf(err) != fault.Invalid || err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWriterRefuses what a Reader would not take.
func TestWriterRefuses(t *testing.T) {
	good := snapshot.Table{Name: "t", Columns: []string{"c"}}
	long := bytes.Repeat([]byte{1}, snapshot.MaxValue)
	wide := snapshot.Table{Name: "t", Columns: []string{"a", "b", "c", "d", "e"}}
	for name, f := range map[string]func(w *snapshot.Writer) error{
		"a row before a table": func(w *snapshot.Writer) error { return w.Row([]any{nil}) },
		"a name":               func(w *snapshot.Writer) error { return w.Table(snapshot.Table{Name: "a b", Columns: good.Columns}) },
		"no columns":           func(w *snapshot.Writer) error { return w.Table(snapshot.Table{Name: "a"}) },
		"a table twice":        func(w *snapshot.Writer) error { return errors.Join(w.Table(good), w.Table(good)) },
		"few values":           func(w *snapshot.Writer) error { return errors.Join(w.Table(good), w.Row(nil)) },
		"a float":              func(w *snapshot.Writer) error { return errors.Join(w.Table(good), w.Row([]any{1.5})) },
		"a long value":         func(w *snapshot.Writer) error { return errors.Join(w.Table(good), w.Row([]any{append(long, 1)})) },
		"a long row": func(w *snapshot.Writer) error {
			return errors.Join(w.Table(wide), w.Row([]any{long, long, long, long, "x"}))
		},
	} {
		w := snapshot.NewWriter(io.Discard, 1)
		if err := f(w); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
		if err := w.Close(); fault.CodeOf(err) != fault.Invalid {
			t.Errorf("%s: the stream was ended: %v", name, err)
		}
	}
	broken := errors.New("disk full")
	if err := write(failing{broken}, 1, sample()); !errors.Is(err, broken) {
		t.Errorf("a disk that is full: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// TestLimits: the longest row there may be is read, and what a stream only says that
// it has takes no memory.
func TestLimits(t *testing.T) {
	long := bytes.Repeat([]byte{1}, snapshot.MaxValue)
	var out bytes.Buffer
	want := []table{{snapshot.Table{Name: "t", Columns: []string{"a", "b", "c", "d"}}, [][]any{{long, long, long, string(long)}}}}
	if err := write(&out, 1, want); err != nil {
		t.Fatal(err)
	}
	if _, got, err := read(&out); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("the longest row: %v", err)
	}

	claims := snapshot.Format + "\n\x07T\x01t\x04\x01a\x01b\x01c\x01dRb\x80\x80\x80\x02" // 4 MiB, of which there is nothing
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, _, err := read(strings.NewReader(claims)); err == nil {
		t.Error("it was read")
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("it took %d bytes", n)
	}
}

// FuzzReader: what is read is written to the same bytes.
func FuzzReader(f *testing.F) {
	f.Add(encoded(f))
	f.Add([]byte(snapshot.Format + "\n\x07T\x01t\x01\x01cRnRi\x01Rt\x01aRb\x00E\x04"))
	f.Add([]byte(snapshot.Format + "\n\x00E\x00"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		schema, tables, err := read(bytes.NewReader(stream))
		if err != nil {
			if fault.CodeOf(err) != fault.Invalid {
				t.Fatalf("%v (%s)", err, fault.CodeOf(err))
			}
			return
		}
		var again bytes.Buffer
		if err := write(&again, schema, tables); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again.Bytes(), stream) {
			t.Fatalf("%q was written again as %q", stream, again.Bytes())
		}
	})
}
