-- +goose Up

-- Who has blocked: the name of a user or of a token. What was blocked before has none: its seal says
-- that it has none.
ALTER TABLE installation ADD COLUMN block_by TEXT NOT NULL DEFAULT '';
ALTER TABLE key_stores ADD COLUMN block_by TEXT NOT NULL DEFAULT '';
ALTER TABLE external_keys ADD COLUMN block_by TEXT NOT NULL DEFAULT '';
