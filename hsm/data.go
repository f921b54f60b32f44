package hsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"holdfast/hsm/wire"
)

// DataObject is a data object (CKO_DATA) of Holdfast in a token. It is no secret, but
// only who is logged in sees it (CKA_PRIVATE), and its value never changes: another
// value is another object.
type DataObject struct {
	Label string
	Value []byte
}

const (
	// MaxDataObjects bounds how many data objects are read.
	MaxDataObjects = 256
	// MaxDataValue bounds the value of one, in bytes.
	MaxDataValue = 4096
)

// Reach says how many members of a cluster an operation with data objects must reach. A
// [Token] is all there are.
type Reach int

// The reaches.
const (
	// ReachAny: at least one.
	ReachAny Reach = iota
	// ReachMost: more than half of those that are configured, so that two such operations
	// have a member in common.
	ReachMost
)

// reached is the error of an operation that so many of a cluster's members have answered;
// nil if they are enough.
func (c *Cluster) reached(reach Reach, n int, why failures) error {
	need := 1
	if reach == ReachMost {
		need = len(c.members)/2 + 1
	}
	switch {
	case n >= need:
		return nil
	case n == 0:
		return why
	}
	return fmt.Errorf("%d of %d tokens have answered, and %d must, so that all who use them see the same: %w", n, len(c.members), need, why)
}

// DataObjects gives the data objects of Holdfast, ordered by label. One whose value
// has more than [MaxDataValue] bytes has none here. It is an error if there are more
// than [MaxDataObjects].
func (t *Token) DataObjects(ctx context.Context, _ Reach) (list []DataObject, err error) {
	err = t.do(ctx, wire.DataObjects, func(fields [][]byte) error {
		if len(list)+len(fields)/2 > MaxDataObjects || len(fields)%2 != 0 {
			return errAnswer
		}
		for i := 0; i < len(fields); i += 2 {
			list = append(list, DataObject{Label: string(fields[i]), Value: bytes.Clone(fields[i+1])})
		}
		return nil
	})
	return list, err
}

// CreateDataObject makes one. Errors: [ErrExists]; [ErrNoDataObjects].
func (t *Token) CreateDataObject(ctx context.Context, o DataObject, _ Reach) error {
	if len(o.Value) > MaxDataValue {
		return fmt.Errorf("data object %q: %d bytes; at most %d are kept", o.Label, len(o.Value), MaxDataValue)
	}
	return t.change(ctx, wire.CreateData, []byte(o.Label), o.Value)
}

// DestroyDataObject removes those of that label, and of that value: a value that is
// another stays. Errors: [ErrNotFound].
func (t *Token) DestroyDataObject(ctx context.Context, o DataObject) error {
	return t.change(ctx, wire.DestroyData, []byte(o.Label), o.Value)
}

// MaxKeyLabels bounds how many labels of keys are read.
const MaxKeyLabels = 10_000

// KeyLabels gives the labels of the token's secret keys, sorted, of the first
// [MaxKeyLabels] that the token names. Those of the master key and the probe key are
// left out.
func (t *Token) KeyLabels(ctx context.Context) (labels []string, err error) {
	err = t.do(ctx, wire.Labels, func(fields [][]byte) error {
		if len(labels)+len(fields) > MaxKeyLabels {
			return errAnswer
		}
		for _, f := range fields {
			labels = append(labels, string(f))
		}
		return nil
	})
	return labels, err
}

// DataObjects gives those of all members that are there, each label and value once:
// see [Token.DataObjects]. Where the HSMs do not copy data objects to each other, a
// member that was away lacks the newest; [ReachMost] finds all that was created so.
func (c *Cluster) DataObjects(ctx context.Context, reach Reach) ([]DataObject, error) {
	return ofAll(ctx, c, reach, func(t *Token, ctx context.Context) ([]DataObject, error) { return t.DataObjects(ctx, reach) }, func(a, b DataObject) int {
		return strings.Compare(a.Label+"\x00"+string(a.Value), b.Label+"\x00"+string(b.Value))
	})
}

// CreateDataObject makes it on each member that is there, unless it came there by the
// HSMs' own means. If it did not reach enough of them, some may have it: with [ReachMost]
// the same may be created again then, and what a member has already counts. Nothing is
// made if too few members are there. See [Token.CreateDataObject].
func (c *Cluster) CreateDataObject(ctx context.Context, o DataObject, reach Reach) error {
	there, errs := c.order()
	if err := c.reached(reach, len(there), errs); err != nil {
		return err
	}
	made := 0
	for _, m := range there {
		t, err := m.ready()
		if err == nil {
			err = t.CreateDataObject(ctx, o, reach)
		}
		if err == nil || ((made > 0 || reach == ReachMost) && errors.Is(err, ErrExists)) {
			made++
			continue
		}
		if reach == ReachAny && (errors.Is(err, ErrNoDataObjects) || errors.Is(err, ErrExists)) {
			return err
		}
		errs = append(errs, err)
	}
	return c.reached(reach, made, errs)
}

// DestroyDataObject removes it on each member that is there. [ErrNotFound] if none has
// it.
func (c *Cluster) DestroyDataObject(ctx context.Context, o DataObject) error {
	there, errs := c.order()
	destroyed := false
	for _, m := range there {
		t, err := m.ready()
		if err == nil {
			err = t.DestroyDataObject(ctx, o)
		}
		if err == nil {
			destroyed = true
			continue
		}
		errs = append(errs, err)
	}
	if destroyed {
		return nil
	}
	return errs.ofKey()
}

// KeyLabels gives those of all members that are there. See [Token.KeyLabels].
func (c *Cluster) KeyLabels(ctx context.Context) ([]string, error) {
	return ofAll(ctx, c, ReachAny, (*Token).KeyLabels, strings.Compare)
}

// ofAll gives what all members have that are there, each once.
func ofAll[T any](ctx context.Context, c *Cluster, reach Reach, f func(*Token, context.Context) ([]T, error), compare func(a, b T) int) ([]T, error) {
	there, errs := c.order()
	var all []T
	answered := 0
	for _, m := range there {
		t, err := m.ready()
		var list []T
		if err == nil {
			list, err = f(t, ctx)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		answered++
		for _, v := range list {
			if !slices.ContainsFunc(all, func(had T) bool { return compare(had, v) == 0 }) {
				all = append(all, v)
			}
		}
	}
	if err := c.reached(reach, answered, errs); err != nil {
		return nil, err
	}
	return all, nil
}
