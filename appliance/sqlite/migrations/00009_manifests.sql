-- +goose Up

-- What authenticates the rows as sets (appliance.Manifest): one manifest for each scope.
-- The scope '' is the installation; its set has the manifests of the other scopes.
CREATE TABLE manifests (
	scope    TEXT    NOT NULL PRIMARY KEY,
	sequence INTEGER NOT NULL,
	before   BLOB    NOT NULL,
	anchor   TEXT    NOT NULL,
	count    INTEGER NOT NULL,
	schema   INTEGER NOT NULL,
	at       INTEGER NOT NULL,
	seal     BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

-- The digests of the installation's manifests, so that an older head can be told from one
-- that is not of this state's past.
CREATE TABLE manifest_history (
	sequence INTEGER NOT NULL PRIMARY KEY,
	digest   BLOB    NOT NULL
) STRICT;
