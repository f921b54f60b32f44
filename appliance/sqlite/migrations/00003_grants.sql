-- +goose Up

-- A grant without the new columns is sealed as it was before there were any.
-- conditions is JSON, or empty for none.
ALTER TABLE grants ADD COLUMN effect TEXT NOT NULL DEFAULT 'allow';
ALTER TABLE grants ADD COLUMN conditions TEXT NOT NULL DEFAULT '';
ALTER TABLE grants ADD COLUMN not_after INTEGER;

-- Cedar policies written by hand.
ALTER TABLE key_stores ADD COLUMN policy TEXT NOT NULL DEFAULT '';

-- What is blocked has a reason and the time since when.
ALTER TABLE key_stores ADD COLUMN block_reason TEXT NOT NULL DEFAULT '';
ALTER TABLE key_stores ADD COLUMN block_since INTEGER;
ALTER TABLE external_keys ADD COLUMN block_reason TEXT NOT NULL DEFAULT '';
ALTER TABLE external_keys ADD COLUMN block_since INTEGER;
ALTER TABLE installation ADD COLUMN block_reason TEXT NOT NULL DEFAULT '';
ALTER TABLE installation ADD COLUMN block_since INTEGER;
ALTER TABLE installation ADD COLUMN block_seal BLOB;
