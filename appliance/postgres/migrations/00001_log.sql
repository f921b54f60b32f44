-- +goose Up

-- The changes of one installation, in their order. A body is sealed under the
-- installation's state key, and names the change before. So what stands here can be
-- withheld, and not be changed unnoticed.
CREATE TABLE changes (
	number bigint NOT NULL PRIMARY KEY CHECK (number > 0),
	body   bytea  NOT NULL
);

-- All rows as of a change, sealed, in parts, so that a new appliance need not make every
-- change since the first.
CREATE TABLE snapshots (
	number bigint NOT NULL CHECK (number > 0),
	part   integer NOT NULL CHECK (part >= 0),
	last   boolean NOT NULL,
	body   bytea  NOT NULL,
	PRIMARY KEY (number, part)
);
