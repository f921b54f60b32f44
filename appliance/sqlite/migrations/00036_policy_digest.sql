-- +goose Up

-- The SHA-256 of the texts of both policies: of one version there is one policy. NULL in
-- what a former release noted; the first policy of that version is taken then.
ALTER TABLE policy_version ADD COLUMN digest BLOB;
ALTER TABLE policy_version ADD COLUMN sealed_digest BLOB;
