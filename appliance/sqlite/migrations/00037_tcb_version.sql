-- +goose Up

-- The TCB recovery file of the highest version that this machine has had: its version and
-- the SHA-256 of its text; 0 if it had none. The seal of the policy is of it, too.
ALTER TABLE policy_version ADD COLUMN tcb_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE policy_version ADD COLUMN tcb_digest BLOB;
ALTER TABLE policy_version ADD COLUMN sealed_tcb_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE policy_version ADD COLUMN sealed_tcb_digest BLOB;
