package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/appliance/fault"
)

// statement is one SQL statement with its parameters. Its result columns are bigint,
// bytea, text or boolean: it casts others, so that a column whose type was changed is an
// error of the server.
type statement struct {
	sql        string
	parameters []any // int64, []byte, string or bool
	// row is called for each row of the result, at most rows times.
	row  func(r *row) error
	rows int
	time time.Duration // how long it may take; statementTime if 0
	// commits says that its success means that the change is durable.
	commits bool
}

// do runs a statement in a transaction of its own, and gives how many rows it changed.
func (l *Log) do(ctx context.Context, s statement) (changed int64, err error) {
	if err := l.prepared(ctx); err != nil {
		return 0, err
	}
	return l.perform(ctx, s)
}

// perform does that though the tables may not be there.
func (l *Log) perform(ctx context.Context, s statement) (changed int64, err error) {
	if s.time == 0 {
		s.time = statementTime
	}
	waiting, end := context.WithTimeout(ctx, s.time)
	defer end()
	conn, err := l.pool.Acquire(waiting)
	if err != nil {
		return 0, l.failed(waiting, err)
	}
	defer conn.Release()
	changed, err = l.run(waiting, conn.Conn().PgConn(), s)
	if err != nil {
		return 0, l.failed(waiting, err)
	}
	if said, ok := conn.Conn().PgConn().CustomData()[warned]; ok && s.commits {
		return 0, l.fault(fault.DatabaseAway, fmt.Errorf("it warned: %v", said), "did not wait for its synchronous replica: check the replica")
	}
	return changed, nil
}

// Types of parameters, by PostgreSQL's numbers (pg_type.dat).
const (
	typeBool  = 16
	typeBytea = 17
	typeInt8  = 20
	typeText  = 25
)

// run sends the statement, and before it how long the server may work on it, as one
// pipeline, which is one transaction. That the commit is done, the server says at the
// end of the pipeline.
func (l *Log) run(ctx context.Context, conn *pgconn.PgConn, s statement) (changed int64, err error) {
	delete(conn.CustomData(), warned)
	batch := new(pgconn.Batch)
	batch.ExecParams("SELECT set_config('statement_timeout', $1, true)", [][]byte{[]byte(strconv.FormatInt(s.time.Milliseconds(), 10))}, []uint32{typeText}, nil, nil)
	var values [][]byte
	var types []uint32
	for _, p := range s.parameters {
		v, t := encode(p)
		values, types = append(values, v), append(types, t)
	}
	batch.ExecParams(s.sql, values, types, []int16{1}, []int16{1}) // all in binary
	results := conn.ExecBatch(ctx, batch)
	defer func() {
		if closed := results.Close(); err == nil && closed != nil {
			err = closed
		}
	}()
	for n := 0; results.NextResult(); n++ {
		reader := results.ResultReader()
		for count := 0; n == 1 && reader.NextRow(); count++ {
			if s.row == nil || count >= s.rows {
				return 0, l.damaged("a statement gives more rows than it can")
			}
			r := &row{values: reader.Values()}
			if err = s.row(r); err == nil && r.wrong != "" {
				err = l.damaged(r.wrong)
			}
			if err != nil {
				return 0, err
			}
		}
		tag, err := reader.Close()
		if err != nil {
			return 0, err
		}
		changed = tag.RowsAffected()
	}
	return changed, nil
}

func encode(p any) (value []byte, oid uint32) {
	switch p := p.(type) {
	case int64:
		return binary.BigEndian.AppendUint64(nil, uint64(p)), typeInt8
	case int:
		return encode(int64(p))
	case []byte:
		if p == nil {
			p = []byte{} // not NULL
		}
		return p, typeBytea
	case string:
		return []byte(p), typeText
	case bool:
		if p {
			return []byte{1}, typeBool
		}
		return []byte{0}, typeBool
	}
	panic(fmt.Sprintf("a parameter of type %T", p))
}

// row reads the columns of a row, from left to right.
type row struct {
	values [][]byte
	at     int
	wrong  string // the first thing that is not as it should be
}

func (r *row) next(what string) []byte {
	if r.at >= len(r.values) {
		r.fail("a row without " + what)
		return nil
	}
	v := r.values[r.at]
	r.at++
	if v == nil {
		r.fail("a row whose " + what + " is missing, or is longer than it can be")
	}
	return v
}

func (r *row) fail(what string) {
	if r.wrong == "" {
		r.wrong = what
	}
}

// number reads a bigint from least to most.
func (r *row) number(what string, least, most int64) int64 {
	v := r.next(what)
	if v == nil {
		return least
	}
	if len(v) != 8 {
		r.fail("a row whose " + what + " is not a number")
		return least
	}
	n := int64(binary.BigEndian.Uint64(v))
	if n < least || n > most {
		r.fail(fmt.Sprintf("a row whose %s is %d", what, n))
		return least
	}
	return n
}

// bytes reads a bytea, of at most so many bytes, as a copy.
func (r *row) bytes(what string, most int) []byte {
	v := r.next(what)
	if len(v) > most {
		r.fail(fmt.Sprintf("a row whose %s has %d bytes; at most %d are allowed", what, len(v), most))
		return nil
	}
	return append([]byte{}, v...)
}

func (r *row) text(what string, most int) string { return string(r.bytes(what, most)) }

func (r *row) bool(what string) bool {
	v := r.next(what)
	return len(v) == 1 && v[0] == 1
}

// notNumber says that a number is not one of a change.
func notNumber(n uint64) error {
	return fault.Errorf(fault.Invalid, "%d is not the number of a change: they go from 1 to 9223372036854775807", n)
}
