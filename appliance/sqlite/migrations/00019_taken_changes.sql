-- +goose Up

-- The newest changes of the fleet's log that are in this database, sealed as they are there:
-- how far it is, and what the log may have to be given back. digest is of the change and all
-- before it.
CREATE TABLE taken_changes (
	number INTEGER NOT NULL PRIMARY KEY,
	digest BLOB    NOT NULL,
	body   BLOB    NOT NULL
) STRICT;
