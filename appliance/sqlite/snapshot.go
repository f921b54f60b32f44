package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	sqlite3 "modernc.org/sqlite/lib"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/snapshot"
)

// Snapshot implements [appliance.Snapshots]. It holds up no write; the write-ahead log
// grows by what is written meanwhile.
func (s *DB) Snapshot(ctx context.Context, w io.Writer) error {
	out := snapshot.NewWriter(w, uint32(s.schema))
	var broken error // of w
	err := s.read(ctx, func(c *conn) error {
		tables, err := shared(ctx, c)
		if err != nil {
			return err
		}
		for _, t := range tables {
			if broken = out.Table(snapshot.Table{Name: t.name, Columns: t.columns}); broken != nil {
				return broken
			}
			values, into := make([]any, len(t.columns)), make([]any, len(t.columns))
			for i := range values {
				into[i] = &values[i]
			}
			if err := c.each(ctx, func(scan scanner) error {
				if err := scan(into...); err != nil {
					return err
				}
				broken = out.Row(values)
				return broken
			}, fmt.Sprintf(`SELECT %s FROM %q ORDER BY %s`, quoted(t.columns), t.name, quoted(t.key))); err != nil {
				return err
			}
		}
		broken = out.Close()
		return broken
	})
	if broken != nil {
		return broken
	}
	return err
}

// Restore implements [appliance.Snapshots]. A snapshot of an earlier schema is first
// taken over into a file of that schema beside this one, and brought up to date there.
func (s *DB) Restore(ctx context.Context, r io.Reader) error {
	rows, err := snapshot.NewReader(r)
	if err != nil {
		return err
	}
	switch schema := int64(rows.Schema()); {
	case schema > s.schema:
		return fault.Errorf(fault.Conflict, "a newer Holdfast made it (schema %d, this binary knows %d); restore it with that version or a later one", schema, s.schema)
	case schema < s.schema:
		return s.restoreEarlier(ctx, rows)
	}
	return s.replace(ctx, rows)
}

func (s *DB) restoreEarlier(ctx context.Context, rows *snapshot.Reader) (err error) {
	dir, err := os.MkdirTemp(filepath.Dir(s.path), "restore-")
	if err != nil {
		return failed("there is no place for the rows beside the database", err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "earlier.db")
	earlier, err := Open(ctx, path, Options{Logger: s.writer.log, Readers: 1, schema: int64(rows.Schema())})
	if err != nil {
		return err
	}
	if err := errors.Join(earlier.replace(ctx, rows), earlier.Close()); err != nil {
		return err
	}
	now, err := Open(ctx, path, Options{Logger: s.writer.log, Readers: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, now.Close()) }()
	from, to := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := now.Snapshot(ctx, to)
		to.CloseWithError(err)
		written <- err
	}()
	err = s.Restore(ctx, from)
	from.CloseWithError(io.ErrClosedPipe) // has the writer end if the reader has
	if failed := <-written; err == nil {
		err = failed
	}
	return err
}

// replace puts the rows of a snapshot of this schema in the place of those that there
// are.
func (s *DB) replace(ctx context.Context, rows *snapshot.Reader) error {
	err := s.writer.doOnce(ctx, func(c *conn) error {
		var stores int
		if _, err := c.one([]any{&stores}, `SELECT count(*) FROM key_stores`); err != nil {
			return err
		}
		if stores > 0 {
			return fault.Errorf(fault.Conflict, "this appliance has %d key stores already; restore into a fresh one", stores)
		}
		return load(ctx, rows, c)
	})
	if err != nil {
		return err
	}
	s.announce(appliance.Change{})
	return nil
}

func load(ctx context.Context, rows *snapshot.Reader, to *conn) error {
	tables, err := shared(ctx, to)
	if err != nil {
		return err
	}
	for _, name := range manifestTables {
		if rows.Schema() < firstManifest {
			break
		}
		if _, err := to.exec(fmt.Sprintf("DELETE FROM %q", name)); err != nil {
			return err
		}
	}
	for _, t := range slices.Backward(tables) {
		if _, err := to.exec(fmt.Sprintf("DELETE FROM %q", t.name)); err != nil {
			return err
		}
	}
	left := map[string]table{}
	for _, t := range tables {
		left[t.name] = t
	}
	for {
		t, err := rows.Table()
		if err != nil {
			return err
		}
		if t == nil {
			break
		}
		mine, known := left[t.Name]
		if !known || !slices.Equal(slices.Sorted(slices.Values(mine.columns)), slices.Sorted(slices.Values(t.Columns))) {
			return fault.Errorf(fault.Invalid, "the stream of rows cannot be used: its table %s is not one of schema %d, or has other columns", t.Name, rows.Schema())
		}
		delete(left, t.Name)
		if err := loadTable(ctx, rows, to, &target{table: t.Name, columns: t.Columns}); err != nil {
			return err
		}
	}
	for _, t := range tables {
		if _, missing := left[t.name]; missing {
			return fault.Errorf(fault.Invalid, "the stream of rows cannot be used: it lacks the table %s", t.name)
		}
		if condition, some := remaining[t.name]; some {
			if _, err := to.exec(fmt.Sprintf("DELETE FROM %q WHERE NOT (%s)", t.name, condition)); err != nil {
				return err
			}
		}
	}
	// The count is of the rows and has no seal.
	_, err = to.exec(`UPDATE key_stores SET key_count = (SELECT count(*) FROM external_keys WHERE key_store = key_stores.id)`)
	return err
}

// target is where the rows of a stream go.
type target struct {
	table   string
	columns []string
	row     func([]any) ([]any, error) // of a row of the stream; nil for as it is
}

func loadTable(ctx context.Context, rows *snapshot.Reader, to *conn, t *target) error {
	insert := fmt.Sprintf("INSERT INTO %q (%s) VALUES (?%s)", t.table, quoted(t.columns), strings.Repeat(", ?", len(t.columns)-1))
	for n := 1; ; n++ {
		if ctx.Err() != nil {
			return timeout(ctx)
		}
		row, err := rows.Row()
		if row == nil || err != nil {
			return err
		}
		if t.row != nil {
			if row, err = t.row(row); err != nil {
				return err
			}
		}
		if _, err := to.exec(insert, row...); hasCode(err, sqlite3.SQLITE_CONSTRAINT) || hasCode(err, sqlite3.SQLITE_MISMATCH) {
			return fault.Wrapf(fault.Invalid, err, "the stream of rows cannot be used: row %d of its table %s is one that the table cannot have", n, t.table)
		} else if err != nil {
			return err
		}
	}
}
