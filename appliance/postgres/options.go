package postgres

import (
	"io/fs"
	"log/slog"
	"time"
)

// Limits of what is written and read, in bytes.
const (
	// MaxBody bounds the body of a change.
	MaxBody = 64 << 20
	// MaxPart bounds a part of a snapshot.
	MaxPart = 1 << 20
)

// Limits of connections and statements.
const (
	maxConnections = 8
	connectTime    = 5 * time.Second
	statementTime  = 5 * time.Second
	// timePerMiB is added for what is long.
	timePerMiB = 500 * time.Millisecond
	// forgetTime bounds the removal of many rows, and a migration.
	forgetTime = time.Minute
)

// Options say which database. The section [state] of the configuration has them.
type Options struct {
	// URL is postgres://USER@HOST:PORT/NAME (package address).
	URL string
	// PasswordFile has the user's password, and perhaps a line feed after it. Only its
	// owner may be able to read it (package privatefile). It is read at each connection.
	PasswordFile string
	// CA is a PEM file of the authorities that may sign the server's certificate; those of
	// the system if empty.
	CA string
	// Certificate and Key are PEM files of a client certificate; none if empty.
	Certificate, Key string
	// Asynchronous accepts a server that confirms commits before they are on its disk, or
	// on its synchronous replica's. Changes that were answered can then be lost.
	Asynchronous bool
	// Log gets what somebody who operates the database should know; nothing if nil.
	Log *slog.Logger

	// migrations are those of this package if nil.
	migrations fs.FS
}

// timeFor is how long a statement with so many bytes may take.
func timeFor(bytes int) time.Duration { return statementTime + time.Duration(bytes>>20)*timePerMiB }
