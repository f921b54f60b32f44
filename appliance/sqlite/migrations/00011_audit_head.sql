-- +goose Up

-- The newest head of the audit log, which the log must contain at the next unlock,
-- sealed under the state key. A value that is empty is for a log of which no head was
-- kept yet: after this migration, and after a restore.
CREATE TABLE audit_head (
	one   INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
	value TEXT    NOT NULL,
	seal  BLOB
) STRICT, WITHOUT ROWID;

INSERT INTO audit_head (one, value)
SELECT 1, '' FROM installation;
