-- +goose Up

-- The time that irreversible things rest on, as this machine has witnessed it, in
-- milliseconds, sealed under the state key.
CREATE TABLE witnessed_time (
	one  INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
	at   INTEGER NOT NULL,
	seal BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
