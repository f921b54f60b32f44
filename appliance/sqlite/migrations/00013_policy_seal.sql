-- +goose Up

-- The highest version that the key of this machine has sealed, and its MAC. The version
-- itself is raised before the machine has its key.
ALTER TABLE policy_version ADD COLUMN sealed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE policy_version ADD COLUMN seal BLOB;
