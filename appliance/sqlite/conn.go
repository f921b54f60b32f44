package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"time"

	"holdfast/appliance"
)

// conn is one connection to the database with its prepared statements. It is
// used by one goroutine at a time.
//
// Its statements run without a context: each is short, interrupting it would
// leave it open what became of its transaction, and with a context the driver
// starts a goroutine per statement. Who reads many rows checks his context
// between them.
type conn struct {
	c        *sql.Conn
	prepared map[string]*sql.Stmt
	raws     map[string]driver.Stmt // those of raw
	// selections are the queries of selections, by table and condition.
	selections map[[2]string]string

	// Of the read at hand: the state as it was when it began; nil while it is closed. And
	// what it has found that is not as in memory.
	state  *state
	doubts []doubt
}

func newConn(ctx context.Context, db *sql.DB) (*conn, error) {
	c, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &conn{c: c, prepared: map[string]*sql.Stmt{}, raws: map[string]driver.Stmt{}, selections: map[[2]string]string{}}, nil
}

// stmt prepares the query when it is first used.
func (c *conn) stmt(query string) (*sql.Stmt, error) {
	if st := c.prepared[query]; st != nil {
		return st, nil
	}
	st, err := c.c.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, err
	}
	c.prepared[query] = st
	return st, nil
}

// exec runs the query and says how many rows it changed.
func (c *conn) exec(query string, args ...any) (int64, error) {
	st, err := c.stmt(query)
	if err != nil {
		return 0, err
	}
	res, err := st.ExecContext(context.Background(), args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// one scans the query's only row into dest, and says whether there was one.
func (c *conn) one(dest []any, query string, args ...any) (bool, error) {
	st, err := c.stmt(query)
	if err != nil {
		return false, err
	}
	err = st.QueryRowContext(context.Background(), args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// scanner reads the columns of the present row.
type scanner func(dest ...any) error

// each calls f for each row of the query, until ctx ends.
func (c *conn) each(ctx context.Context, f func(scanner) error, query string, args ...any) error {
	st, err := c.stmt(query)
	if err != nil {
		return err
	}
	rows, err := st.QueryContext(context.Background(), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// raw reads the rows of a query as the driver gives them, without database/sql's copies
// and conversions: it is for reading a million rows. The slice is valid during the call,
// its values for longer.
// The driver itself does not get the context, which would cost it something at each row.
// f must not run the same query.
func (c *conn) raw(ctx context.Context, f func(row []any), query string, args ...any) error {
	named := make([]driver.NamedValue, len(args))
	for i, a := range args {
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	return c.c.Raw(func(raw any) error {
		st := c.raws[query]
		if st == nil {
			var err error
			if st, err = raw.(driver.Conn).Prepare(query); err != nil {
				return err
			}
			c.raws[query] = st
		}
		rows, err := st.(driver.StmtQueryContext).QueryContext(context.Background(), named)
		if err != nil {
			return err
		}
		defer rows.Close()
		values := make([]driver.Value, len(rows.Columns()))
		row := make([]any, len(values))
		for n := 1; ; n++ {
			if err := rows.Next(values); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			if n%1024 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			for i, v := range values {
				row[i] = v
			}
			f(row)
		}
	})
}

func (c *conn) close() error {
	var errs []error
	for _, st := range c.prepared {
		errs = append(errs, st.Close())
	}
	if len(c.raws) > 0 {
		errs = append(errs, c.c.Raw(func(any) error {
			var errs []error
			for _, st := range c.raws {
				errs = append(errs, st.Close())
			}
			return errors.Join(errs...)
		}))
	}
	return errors.Join(append(errs, c.c.Close())...)
}

// millis is how a time is stored: Unix milliseconds, NULL for the zero time.
type millis struct{ t *time.Time }

// Scan reads a stored time. One that cannot be written in an answer was edited by hand: another
// stands for it, so that its row does not match its seal, and no other row suffers.
func (m millis) Scan(v any) error {
	var n sql.NullInt64
	if err := n.Scan(v); err != nil {
		return err
	}
	*m.t = time.Time{}
	if n.Valid {
		*m.t = time.UnixMilli(min(max(n.Int64, 0), appliance.LastTime.UnixMilli())).UTC()
	}
	return nil
}

// ms gives t as it is stored.
func ms(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMilli()
}

// text gives s as it is stored where an empty string means that there is none.
func text(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// blob gives b as it is stored: the driver takes nil for NULL.
func blob(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
