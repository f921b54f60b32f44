package sqlite

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math"
	"slices"

	"holdfast/appliance"
)

// Which set a row is in, and what of it counts. A table or column that is not named here
// is in the set of the installation, and counts.
var (
	// ofKeyStores are the tables whose rows are of a key store, by the column that says
	// of which; and of one key, if that column is not NULL.
	ofKeyStores = map[string]struct{ keyStore, key string }{
		"key_stores":    {"id", ""},
		"credentials":   {"key_store", ""},
		"external_keys": {"key_store", "id"},
		"key_versions":  {"key_store", "key_id"},
		"grants":        {"key_store", "key_id"},
	}
	// unset are the tables in no manifest, as they change while there is no state key.
	// Each has a rule of its own (docs/adr/0014-state.md).
	unset = []string{"boot_steps", "policy_version", "sessions", "manifest_history", "taken_changes"}
	// ofProcess are those of them whose rows are held against the set in memory all the
	// same, so that a session that has ended does not come back.
	ofProcess = []string{"sessions"}
	// uncounted are columns that each sign-in or use changes, and that decide nothing.
	uncounted = map[string][]string{
		"credentials": {"last_used_at"},
		"api_tokens":  {"last_used_at"},
		"sessions":    {"last_seen_at"},
		"users":       {"activity"},
	}
	// unanchored are columns whose change is in the manifest, and does not raise the
	// anchor: encryptions only count up, with the requests, and the audit log grows with
	// them; each change that raises the anchor has the log's head of then. An older
	// witnessed time only makes what waits wait longer. Without its answer, a request that was
	// done is still marked as done.
	unanchored = map[string][]string{"key_versions": {"encryptions"}, "audit_head": {"value", "seal"}, "witnessed_time": {"at", "seal"}, "answers": {"answer"}}
)

// spec is how the rows of a table are counted in.
type spec struct {
	table
	head          []byte // how the encoding of a row begins
	counted       []bool // by column
	anchored      []bool
	keyStore, key int // columns; -1 for none
	pk            []int
	kept          bool // in a manifest
	machine       bool // of this machine alone, and in no change of the log
	seed          maphash.Seed
	form          *form // in the fleet's schema; nil if that has the table as it is here
	// whole is the group of all rows of a table whose rows are each a group by itself: a
	// list is held against it, in which a row could be missing. 0 for other tables.
	whole uint64
}

// specsOf gives the specs of the tables that count, for a version of the schema.
func specsOf(ctx context.Context, schema int64, seed maphash.Seed) (map[string]*spec, error) {
	p, err := patternOf(ctx, schema)
	if err != nil {
		return nil, err
	}
	specs := map[string]*spec{}
	for _, t := range p.tables {
		kept := !slices.Contains(unset, t.name)
		if slices.Contains(engineTables, t.name) || (!kept && !slices.Contains(ofProcess, t.name)) {
			continue
		}
		s := &spec{table: t, keyStore: -1, key: -1, kept: kept, machine: slices.Contains(machineTables, t.name), seed: seed}
		of := ofKeyStores[t.name]
		for i, c := range t.columns {
			s.counted = append(s.counted, !slices.Contains(uncounted[t.name], c))
			s.anchored = append(s.anchored, s.counted[i] && !slices.Contains(unanchored[t.name], c))
			if c == of.keyStore {
				s.keyStore = i
			}
			if c == of.key {
				s.key = i
			}
		}
		s.head = s.digest()
		if s.keyStore < 0 {
			s.whole = maphash.Bytes(seed, appendPart(nil, 'a', t.name))
		}
		for _, k := range t.key {
			s.pk = append(s.pk, slices.Index(t.columns, k))
		}
		specs[t.name] = s
	}
	return specs, nil
}

// digest names the table and the columns that are counted, in their order: the first 16
// bytes of SHA-256. It is in place of the names, which would be half of a row's encoding.
func (s *spec) digest() []byte {
	names := appendPart(nil, 't', s.name)
	for i, c := range s.columns {
		if s.counted[i] {
			names = appendPart(names, 'c', c)
		}
	}
	d := sha256.Sum256(names)
	return d[:16]
}

// encode writes what is counted of a row without ambiguity: which table and columns, and
// each column's type and value, with lengths.
func (s *spec) encode(out []byte, row []any) []byte {
	if s.form != nil && s.form.fits(row, s.counted) {
		return s.form.encode(out, row)
	}
	out = append(out, s.head...)
	for i, v := range row {
		if s.counted[i] {
			out = appendValue(out, v)
		}
	}
	return out
}

func appendPart(out []byte, kind byte, text string) []byte {
	out = binary.BigEndian.AppendUint32(append(out, kind), uint32(len(text)))
	return append(out, text...)
}

func appendValue(out []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(out, '0')
	case int64:
		return binary.BigEndian.AppendUint64(append(out, 'i'), uint64(v))
	case float64:
		return binary.BigEndian.AppendUint64(append(out, 'f'), math.Float64bits(v))
	case string:
		return appendPart(out, 's', v)
	case []byte:
		out = binary.BigEndian.AppendUint32(append(out, 'b'), uint32(len(v)))
		return append(out, v...)
	}
	return appendPart(out, '?', fmt.Sprintf("%T %v", v, v)) // no driver gives one
}

// place is where a row belongs.
type place struct {
	scope string // of its manifest
	group uint64 // the rows that are read and held against memory together
}

// place gives the place of a row: rows of one key, those of a key store besides, and any
// other row by itself.
func (s *spec) place(row []any) place {
	var store, key string
	if s.keyStore >= 0 {
		store, _ = row[s.keyStore].(string)
	}
	if s.key >= 0 {
		key, _ = row[s.key].(string)
	}
	switch {
	case store == "":
		id := appendPart(nil, 'r', s.name)
		for _, i := range s.pk {
			id = appendValue(id, row[i])
		}
		return place{appliance.ScopeInstallation, maphash.Bytes(s.seed, id)}
	case key == "":
		return placeOfKeyStore(s.seed, store)
	}
	return placeOfKey(s.seed, store, key)
}

func placeOfKeyStore(seed maphash.Seed, store string) place {
	var id [64]byte
	return place{store, maphash.Bytes(seed, appendPart(id[:0], 'k', store))}
}

// placeOfKey gives that of a key.
func placeOfKey(seed maphash.Seed, store, key string) place {
	var room [192]byte // so that nothing is allocated for each of a million rows
	id := appendPart(appendPart(room[:0], 'k', store), 'e', key)
	return place{appliance.KeySet(store, key), maphash.Bytes(seed, id)}
}

// outOfPlace says whether the row of the installation's manifest itself is meant: it is in
// no set.
func (s *spec) outOfPlace(row []any) bool {
	return s.name == "manifests" && row[0] == appliance.ScopeInstallation
}
