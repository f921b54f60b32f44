-- +goose Up

-- What was good once and is used up (package identity): ceremonies and sessions. The rows
-- are in the manifest of the installation, so that none can be taken away unnoticed.
CREATE TABLE spent (
	id         TEXT    NOT NULL PRIMARY KEY,
	expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX spent_expires ON spent (expires_at);
