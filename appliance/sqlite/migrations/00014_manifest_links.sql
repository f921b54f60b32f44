-- +goose Up

-- The links of the chain of digests (appliance.Manifest.Link), by which an earlier head is
-- proven to be in the past of the present one. The digests of before proved nothing, and no
-- anchor was told one.
DROP TABLE manifest_history;
CREATE TABLE manifest_history (
	sequence INTEGER NOT NULL PRIMARY KEY,
	link     BLOB    NOT NULL
) STRICT;
