package sqlite

import (
	"bytes"
	"context"
	"errors"
	"time"

	"holdfast/appliance"
)

// LogLoss says whether a write-ahead log has lost something.
func LogLoss(log []byte) bool {
	loss, err := scanLog(bytes.NewReader(log), int64(len(log)))
	return err != nil || loss != nil
}

// SealedIn makes a database in an earlier schema, which Holdfast does not write any more,
// with the rows that statements make and a manifest for each scope, if the schema has
// manifests.
func SealedIn(ctx context.Context, path string, schema int64, o appliance.StateOptions, statements ...string) error {
	s, err := Open(ctx, path, Options{schema: schema})
	if err != nil {
		return err
	}
	defer s.Close()
	c := s.writer.conn
	for _, st := range statements {
		if _, err := c.exec(st); err != nil {
			return err
		}
	}
	if schema < firstManifest {
		return nil
	}
	seal := func(scope string) error {
		there, _, err := newState(o, schema, s.seed, s.writer.specs).actual(ctx, c)
		if err != nil {
			return err
		}
		m := &appliance.Manifest{Scope: scope, Sequence: 1, Before: []byte{}, Schema: schema, At: o.Now().UTC().Truncate(time.Millisecond)}
		sum := there.sums[scope]
		m.Seal = o.Key.Seal(m, &sum)
		if _, err = c.exec(`INSERT INTO manifests VALUES (?, ?, ?, ?, ?, ?, ?, ?)`, m.Scope, int64(m.Sequence), m.Before, m.Anchor, int64(m.Count), m.Schema, m.At.UnixMilli(), m.Seal); err == nil && scope == "" {
			_, err = c.exec(`INSERT INTO manifest_history VALUES (?, ?)`, int64(m.Sequence), m.Link())
		}
		return err
	}
	there, _, err := newState(o, schema, s.seed, s.writer.specs).actual(ctx, c)
	if err != nil {
		return err
	}
	for scope := range there.sums {
		if scope != "" {
			err = errors.Join(err, seal(scope))
		}
	}
	return errors.Join(err, seal("")) // which counts the others' manifests
}
