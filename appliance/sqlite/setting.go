package sqlite

import (
	"cmp"
	"context"
	"fmt"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Setting implements [appliance.Store].
func (s *DB) Setting(ctx context.Context, name string) (*appliance.SettingRow, error) {
	row := &appliance.SettingRow{Name: name}
	err := s.read(ctx, func(c *conn) error {
		if matches, err := s.rowMatches(ctx, c, "settings", "name = ?", name); err != nil || !matches {
			return cmp.Or(err, stateChanged())
		}
		found, err := c.one([]any{&row.Value, &row.Seal}, `SELECT value, seal FROM settings WHERE name = ?`, name)
		if err == nil && !found {
			return noSetting(name)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return row, nil
}

// SetSetting implements [appliance.Store].
func (s *DB) SetSetting(ctx context.Context, row, was *appliance.SettingRow) error {
	what := fmt.Sprintf("the setting %q", row.Name)
	return s.write(ctx, func(c *conn) error {
		if was == nil {
			n, err := c.exec(`INSERT INTO settings (name, value, seal) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, row.Name, row.Value, row.Seal)
			if err == nil && n == 0 {
				return stale(what)
			}
			return err
		}
		n, err := c.exec(`UPDATE settings SET value = ?, seal = ? WHERE name = ? AND value = ? AND coalesce(seal, x'') = ?`,
			row.Value, row.Seal, row.Name, was.Value, blob(was.Seal))
		return unlessChanged(c, n, err, expect(what, noSetting(row.Name), `SELECT 1 FROM settings WHERE name = ?`, row.Name))
	}, appliance.Change{Setting: row.Name})
}

func noSetting(name string) error {
	return fault.Errorf(fault.NotFound, "the setting %q was never made", name)
}
