-- +goose Up

-- What a note of a token's object is about, and its seal. A note of before has
-- none, and is not acted on.
ALTER TABLE token_objects ADD COLUMN key_store TEXT NOT NULL DEFAULT '';
ALTER TABLE token_objects ADD COLUMN key_id TEXT NOT NULL DEFAULT '';
ALTER TABLE token_objects ADD COLUMN version INTEGER NOT NULL DEFAULT 0 CHECK (version BETWEEN 0 AND 4294967295);
ALTER TABLE token_objects ADD COLUMN seal BLOB NOT NULL DEFAULT x'';

-- The versions that may be in the token, found without reading a million others. 61
-- is appliance.CachedMaterial: the custody alone is a word that can be edited.
CREATE INDEX key_versions_in_token ON key_versions (key_store, key_id, version) WHERE custody <> 'cached' OR length(material) <> 61;
