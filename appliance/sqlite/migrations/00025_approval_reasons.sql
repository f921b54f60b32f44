-- +goose Up

-- Why an operation was asked for and why it was decided so, from which address it was asked,
-- and by what the secret is known that the one who asked gives again (package approval).
ALTER TABLE approvals ADD COLUMN reason TEXT NOT NULL DEFAULT '';
ALTER TABLE approvals ADD COLUMN address TEXT NOT NULL DEFAULT '';
ALTER TABLE approvals ADD COLUMN decision_reason TEXT NOT NULL DEFAULT '';
ALTER TABLE approvals ADD COLUMN secret BLOB;
