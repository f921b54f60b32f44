package postgres

import "io/fs"

// WithMigrations gives the options of a release with those migrations.
func (o Options) WithMigrations(migrations fs.FS) Options {
	o.migrations = migrations
	return o
}

// Migrations are those of this release.
var Migrations fs.FS = embedded
