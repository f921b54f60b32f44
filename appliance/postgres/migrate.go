package postgres

import (
	"context"
	"embed"
	"io/fs"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"holdfast/appliance/fault"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrate applies the migrations that the database lacks. Two appliances that start at
// once wait for each other at goose's table.
func migrate(ctx context.Context, pool *pgxpool.Pool) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithVerbose(false))
	if err != nil {
		return fault.Wrapf(fault.Internal, err, "the migrations of the database cannot be read")
	}
	if _, err := p.Up(ctx); err != nil {
		return unavailable(ctx, err)
	}
	return nil
}
