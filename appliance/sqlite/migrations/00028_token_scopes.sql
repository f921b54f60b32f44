-- +goose Up

-- What an API token may be used for besides its role (JSON). A token of before has none:
-- its seal says that it has none, so that nobody can take a scope away.
ALTER TABLE api_tokens ADD COLUMN scope TEXT;
