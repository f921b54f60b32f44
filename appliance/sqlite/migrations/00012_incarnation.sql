-- +goose Up

-- Which of several copies of an installation this one is (JSON), sealed under the
-- state key. Empty in an installation of before; its first start fills it in.
ALTER TABLE installation ADD COLUMN incarnation TEXT NOT NULL DEFAULT '';
ALTER TABLE installation ADD COLUMN incarnation_seal BLOB;

-- That this machine is about to make the HSM's master key, for a database without an
-- installation. CreateInstallation removes it.
CREATE TABLE master_key_making (
	one      INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
	began_at INTEGER NOT NULL
) STRICT;
