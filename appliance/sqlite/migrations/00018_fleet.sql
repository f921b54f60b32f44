-- +goose Up

-- The nodes of the fleet. joined is in milliseconds. The row of a node that was removed stays,
-- so that it does not join again; joined is when it was removed then.
CREATE TABLE nodes (
	id      TEXT    NOT NULL PRIMARY KEY,
	address TEXT    NOT NULL,
	state   TEXT    NOT NULL CHECK (state IN ('joining', 'serving', 'drained', 'leaving', 'removed')),
	joined  INTEGER NOT NULL,
	seal    BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

-- The node that does the work for all. The token rises by one each time that another node
-- takes it over.
CREATE TABLE leader (
	one   INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
	node  TEXT    NOT NULL,
	token INTEGER NOT NULL CHECK (token > 0),
	seal  BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
