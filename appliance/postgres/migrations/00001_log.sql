-- +goose Up

-- The changes of one installation, in their order. A body is sealed under the
-- installation's state key, and names the change before. So what stands here can be
-- withheld, and not be changed unnoticed.
CREATE TABLE changes (
	number bigint NOT NULL PRIMARY KEY CHECK (number > 0),
	body   bytea  NOT NULL
);

-- Bodies are sealed, so nothing is gained by trying to compress them.
ALTER TABLE changes ALTER COLUMN body SET STORAGE EXTERNAL;

-- All rows as of a change, sealed, so that a new node need not make every change since
-- the first. One that is not whole does not count.
CREATE TABLE snapshots (
	id      bigint      NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	number  bigint      NOT NULL CHECK (number > 0),
	parts   bigint      NOT NULL DEFAULT 0 CHECK (parts >= 0),
	whole   boolean     NOT NULL DEFAULT false,
	touched timestamptz NOT NULL DEFAULT clock_timestamp(),
	CHECK (NOT whole OR parts > 0)
);

CREATE TABLE snapshot_parts (
	snapshot bigint NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
	part     bigint NOT NULL CHECK (part >= 0),
	body     bytea  NOT NULL,
	PRIMARY KEY (snapshot, part)
);

ALTER TABLE snapshot_parts ALTER COLUMN body SET STORAGE EXTERNAL;

-- What the first node leaves for the others.
CREATE TABLE founding (
	one               boolean NOT NULL DEFAULT true PRIMARY KEY CHECK (one),
	installation      text    NOT NULL,
	wrapped_state_key bytea   NOT NULL
);

-- Which node may begin the installation, and until when.
CREATE TABLE founding_claim (
	one  boolean     NOT NULL DEFAULT true PRIMARY KEY CHECK (one),
	node text        NOT NULL,
	ends timestamptz NOT NULL
);

-- Where nodes find each other. It decides nothing.
CREATE TABLE nodes (
	id      text        NOT NULL PRIMARY KEY,
	address text        NOT NULL,
	at      timestamptz NOT NULL
);

-- The oldest migration whose release can work with these tables. A migration that only
-- adds leaves it. One that takes away, a release later, sets it to the migration that
-- stopped using what is taken.
CREATE TABLE compatibility (
	one    boolean NOT NULL DEFAULT true PRIMARY KEY CHECK (one),
	oldest bigint  NOT NULL
);

INSERT INTO compatibility (oldest) VALUES (1);
