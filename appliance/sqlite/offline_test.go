package sqlite_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/sqlite"
	"holdfast/appliance/storetest"
)

// earlierRows are rows of an installation as every schema has them.
var earlierRows = []string{
	`INSERT INTO installation (one, id, wrapped_state_key, created_at) VALUES (1, 'i', x'01', 1)`,
	`INSERT INTO key_stores (id, name, uri_path_prefix, requests_per_second, created_at, key_count, wrapped_key, seal) VALUES ('s', 'name', '/p', 0, 1, 0, x'01', x'02')`,
}

func offline(t *testing.T, path string) (*sqlite.Offline, *appliance.Survey) {
	t.Helper()
	o := storetest.Got(sqlite.OpenOffline(t.Context(), path))(t)
	t.Cleanup(func() { storetest.Must(t, o.Close()) })
	return o, storetest.Got(o.Survey(t.Context(), storetest.StateOptions().Key))(t)
}

func allMatch(s *appliance.Survey) bool {
	for _, set := range s.Sets {
		if !set.Matches {
			return false
		}
	}
	return s.Judged && s.Why == nil && len(s.Sets) > 0
}

// TestOfflineEarlierSchema: a copy of an earlier release is held against its manifests in its
// own schema, and stays as it is; migrated and not opened since, it still is.
func TestOfflineEarlierSchema(t *testing.T) {
	ctx := t.Context()
	for schema := int64(8); schema <= 13; schema++ {
		if schema == 10 { // there is none
			continue
		}
		t.Run(fmt.Sprint(schema), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "holdfast.db")
			storetest.Must(t, sqlite.SealedIn(ctx, path, schema, storetest.StateOptions(), earlierRows...))
			before := storetest.Got(os.ReadFile(path))(t)
			o, s := offline(t, path)
			if s.Schema != schema || s.Knows <= schema || s.Rows < 2 || schema >= 9 && (!allMatch(s) || !s.Chained || s.HeadSchema != schema || s.Head.Sequence != 1) || schema < 9 && (s.Judged || s.Head.Sequence != 0) {
				t.Errorf("%+v", s)
			}
			storetest.Equal(t, storetest.Got(o.StateKey(ctx))(t).ID, "i")
			storetest.Wants(t, errorOf(o.AuditHead(ctx)), fault.NotFound, "")
			store := storetest.Got(o.Migrated(ctx))(t)
			storetest.Equal(t, storetest.Got(store.Installation(ctx))(t).ID, "i")
			storetest.Equal(t, string(storetest.Got(os.ReadFile(path))(t)), string(before))
			if schema < 9 {
				return
			}
			edit(t, path, `UPDATE key_stores SET requests_per_second = 1`)
			if _, s := offline(t, path); !s.Judged || s.Why != nil || allMatch(s) {
				t.Errorf("after a change of a key store: %+v", s)
			}
			edit(t, path, `UPDATE key_stores SET requests_per_second = 0`)
			s2, err := sqlite.Open(ctx, path, sqlite.Options{}) // the present release starts, and is stopped before it unlocks
			storetest.Must(t, err)
			storetest.Must(t, s2.Close())
			if _, s := offline(t, path); s.Schema != s.Knows || s.HeadSchema != schema || !s.Chained || !allMatch(s) {
				t.Errorf("migrated: %+v", s)
			}
			edit(t, path, `INSERT INTO settings (name, value) VALUES ('mine', 'x')`)
			if _, s := offline(t, path); allMatch(s) || s.Why == nil {
				t.Errorf("migrated, and a row added: %+v", s)
			}
		})
	}
}

// TestOfflineRefused: what is no copy is said, and nothing is left behind.
func TestOfflineRefused(t *testing.T) {
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	path := filepath.Join(t.TempDir(), "holdfast.db")
	_, err := sqlite.OpenOffline(t.Context(), path)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	storetest.Must(t, os.WriteFile(path, []byte("a text"), 0o600))
	_, err = sqlite.OpenOffline(t.Context(), path)
	storetest.Wants(t, err, fault.StateForeign, path+": it is not a database")
	_, err = sqlite.OpenOffline(t.Context(), filepath.Dir(path))
	storetest.Wants(t, err, fault.StateForeign, "regular file")
	storetest.Must(t, os.Truncate(path, 0))
	_, err = sqlite.OpenOffline(t.Context(), path)
	storetest.Wants(t, err, fault.StateForeign, "empty")
	if left := storetest.Got(os.ReadDir(temporary))(t); len(left) > 0 {
		t.Errorf("it leaves %v behind", left)
	}
}
