-- +goose Up

-- What became of each boot, one row per state that it went through. began_at is
-- in Unix milliseconds, took in microseconds; it is 0 for a state that has no
-- end of its own, such as serving.
CREATE TABLE boot_steps (
	boot     TEXT    NOT NULL,
	seq      INTEGER NOT NULL,
	state    TEXT    NOT NULL,
	began_at INTEGER NOT NULL,
	took     INTEGER NOT NULL,
	code     TEXT    NOT NULL,
	reason   TEXT    NOT NULL,
	PRIMARY KEY (boot, seq)
) STRICT, WITHOUT ROWID;

CREATE INDEX boot_steps_began ON boot_steps (began_at);

-- The highest version of an appraisal policy that this appliance has had.
CREATE TABLE policy_version (
	one     INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
	version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
