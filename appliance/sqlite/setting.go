package sqlite

import (
	"context"

	"holdfast/appliance/fault"
)

// Setting implements [appliance.Store].
func (s *DB) Setting(ctx context.Context, name string) (value string, seal []byte, err error) {
	err = s.read(ctx, func(c *conn) error {
		found, err := c.one([]any{&value, &seal}, `SELECT value, seal FROM settings WHERE name = ?`, name)
		if err == nil && !found {
			return fault.Errorf(fault.NotFound, "the setting %q was never made", name)
		}
		return err
	})
	return value, seal, err
}

// SetSetting implements [appliance.Store].
func (s *DB) SetSetting(ctx context.Context, name, value string, seal []byte) error {
	return s.write(ctx, func(c *conn) error {
		_, err := c.exec(`INSERT INTO settings (name, value, seal) VALUES (?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET value = excluded.value, seal = excluded.seal`, name, value, seal)
		return err
	})
}
