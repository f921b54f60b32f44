-- +goose Up

-- What was answered to requests with an idempotency key (package idempotency). Neither key nor
-- answer can be read here: id and request are keyed hashes, and the answer is sealed under a key
-- that needs the idempotency key. The row is written by the transaction that makes the change.
CREATE TABLE answers (
	id         TEXT    NOT NULL PRIMARY KEY,
	owner      TEXT    NOT NULL,
	request    BLOB    NOT NULL,
	run        TEXT    NOT NULL,
	node       TEXT    NOT NULL,
	begun_at   INTEGER NOT NULL,
	expires_at INTEGER NOT NULL,
	answer     BLOB
) STRICT;

CREATE INDEX answers_owner ON answers (owner, expires_at);
CREATE INDEX answers_expires ON answers (expires_at);
