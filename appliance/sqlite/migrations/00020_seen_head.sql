-- +goose Up

-- The newest head of the fleet's state that this machine has taken over, in the database of
-- this machine's own rows.
CREATE TABLE seen_head (
	one      INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
	sequence INTEGER NOT NULL,
	digest   TEXT    NOT NULL,
	at       INTEGER NOT NULL,
	since    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
