package sqlite

import (
	"fmt"
	"io/fs"
	"slices"
	"testing"

	"github.com/pressly/goose/v3"

	"holdfast/appliance/storetest"
)

// mayDrop is what a migration drops, by its number. The release before must have stopped to
// use it, and left it empty (docs/adr/0015-fleet.md).
var mayDrop = map[int64][]string{
	ofAfter: {"key_stores.colour", "labels"},
}

// TestMigrationsExpand: since there are fleets, a migration adds tables and columns, and drops
// only what is listed.
func TestMigrationsExpand(t *testing.T) {
	const fleets = 22 // the newest migration when fleets began
	before := int64(fleets)
	for _, name := range storetest.Got(fs.Glob(migrations, "*.sql"))(t) {
		version := storetest.Got(goose.NumericComponent(name))(t)
		if version <= fleets {
			continue
		}
		was, now := storetest.Got(patternOf(t.Context(), before))(t), storetest.Got(patternOf(t.Context(), version))(t)
		var dropped []string
		for _, a := range was.tables {
			if slices.Contains(machineTables, a.name) || slices.Contains(engineTables, a.name) {
				continue
			}
			at := slices.IndexFunc(now.tables, func(b table) bool { return b.name == a.name })
			if at < 0 {
				dropped = append(dropped, a.name)
				continue
			}
			b := now.tables[at]
			if !slices.Equal(a.key, b.key) {
				t.Errorf("%s changes the primary key of %s", name, a.name)
			}
			for _, c := range a.columns {
				if !slices.Contains(b.columns, c) {
					dropped = append(dropped, fmt.Sprintf("%s.%s", a.name, c))
				}
			}
		}
		slices.Sort(dropped)
		storetest.Equal(t, dropped, mayDrop[version])
		before = version
	}
}
