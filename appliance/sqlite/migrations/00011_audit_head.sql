-- +goose Up

-- The newest head of the audit log, which the log must contain at the next unlock,
-- sealed under the state key. It is written where all rows are sealed as they are, and
-- from then on an unlock without it fails.
CREATE TABLE audit_head (
	one   INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
	value TEXT    NOT NULL,
	seal  BLOB
) STRICT, WITHOUT ROWID;
