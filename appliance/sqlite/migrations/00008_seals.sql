-- +goose Up

-- What decides is sealed (identity.Account.Text), what each sign-in changes is not.
-- A row without a seal is one of before the first unlock, or not valid.
ALTER TABLE users ADD COLUMN activity TEXT NOT NULL DEFAULT '';
ALTER TABLE users ADD COLUMN seal BLOB;

-- origin is JSON: who helped to make it.
ALTER TABLE invitations ADD COLUMN origin TEXT NOT NULL DEFAULT '{}';
ALTER TABLE invitations ADD COLUMN seal BLOB;
ALTER TABLE api_tokens ADD COLUMN origin TEXT NOT NULL DEFAULT '{}';
ALTER TABLE api_tokens ADD COLUMN seal BLOB;

-- Sessions of before are not valid any more: the seal is of the process.
ALTER TABLE sessions ADD COLUMN seal BLOB;

ALTER TABLE approvals ADD COLUMN decided_by_id TEXT NOT NULL DEFAULT '';
ALTER TABLE approvals ADD COLUMN seal BLOB;

-- Small values that were chosen, each with its seal.
CREATE TABLE settings (
	name  TEXT NOT NULL PRIMARY KEY,
	value TEXT NOT NULL,
	seal  BLOB
) STRICT, WITHOUT ROWID;

INSERT INTO settings (name, value)
SELECT 'four_eyes', json_object('operations', json_group_array(operation))
FROM four_eyes HAVING count(*) > 0;

DROP TABLE four_eyes;
