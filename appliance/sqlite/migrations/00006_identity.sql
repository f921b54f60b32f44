-- +goose Up

-- Who may administer the appliance (package identity). account is JSON; the other
-- columns are of it, to find and constrain it by.
CREATE TABLE users (
	id       TEXT    NOT NULL PRIMARY KEY,
	name     TEXT    NOT NULL UNIQUE,
	oidc     TEXT    UNIQUE,
	role     TEXT    NOT NULL,
	disabled INTEGER NOT NULL CHECK (disabled IN (0, 1)),
	account  TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

-- digest is the SHA-256 of a random token, here and below.
CREATE TABLE invitations (
	digest     BLOB    NOT NULL PRIMARY KEY,
	id         TEXT    NOT NULL UNIQUE,
	name       TEXT    NOT NULL,
	role       TEXT    NOT NULL,
	invited_by TEXT    NOT NULL,
	created_at INTEGER NOT NULL,
	expires_at INTEGER NOT NULL,
	setup      INTEGER NOT NULL CHECK (setup IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
	digest       BLOB    NOT NULL PRIMARY KEY,
	id           TEXT    NOT NULL UNIQUE,
	user_id      TEXT    NOT NULL REFERENCES users (id) ON DELETE CASCADE,
	address      TEXT    NOT NULL,
	user_agent   TEXT    NOT NULL,
	created_at   INTEGER NOT NULL,
	last_seen_at INTEGER NOT NULL,
	expires_at   INTEGER NOT NULL,
	proven_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX sessions_user ON sessions (user_id);

CREATE TABLE api_tokens (
	digest       BLOB    NOT NULL PRIMARY KEY,
	id           TEXT    NOT NULL UNIQUE,
	name         TEXT    NOT NULL UNIQUE,
	role         TEXT    NOT NULL,
	created_by   TEXT    NOT NULL,
	created_at   INTEGER NOT NULL,
	expires_at   INTEGER NOT NULL,
	last_used_at INTEGER,
	revoked_at   INTEGER
) STRICT, WITHOUT ROWID;
