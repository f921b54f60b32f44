-- +goose Up

-- How another proxy framed the AAD of ciphertexts that an imported key decrypts.
ALTER TABLE external_keys ADD COLUMN framing TEXT NOT NULL DEFAULT '';
