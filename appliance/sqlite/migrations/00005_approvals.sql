-- +goose Up

-- Few keys are in another state than enabled, or blocked; the console lists them
-- out of a million.
CREATE INDEX external_keys_not_enabled ON external_keys (key_store, state, id) WHERE state <> 'enabled';
-- The expression has the planner prefer this index to the primary key.
CREATE INDEX external_keys_blocked ON external_keys (key_store, (block_since IS NOT NULL), id) WHERE block_since IS NOT NULL;

-- Operations that wait for another person's approval. body is JSON without
-- secrets, or NULL.
CREATE TABLE approvals (
	id           TEXT    NOT NULL PRIMARY KEY,
	operation    TEXT    NOT NULL,
	method       TEXT    NOT NULL,
	path         TEXT    NOT NULL,
	body         BLOB,
	user_id      TEXT    NOT NULL,
	token        TEXT    NOT NULL,
	requested_by TEXT    NOT NULL,
	created_at   INTEGER NOT NULL,
	expires_at   INTEGER NOT NULL,
	state        TEXT    NOT NULL,
	decided_by   TEXT    NOT NULL DEFAULT '',
	decided_at   INTEGER,
	outcome      TEXT    NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;

CREATE INDEX approvals_created ON approvals (created_at);

-- The operations that need approval.
CREATE TABLE four_eyes (
	operation TEXT NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;
