// Package postgres keeps the log of changes of one installation in a PostgreSQL database,
// for the nodes of a fleet (docs/adr/0015-fleet.md). Use it where one machine is not
// enough; package sqlite keeps the rows themselves, on each machine.
//
// # Guarantees
//
//   - Of two nodes that append a change with the same number, one succeeds and the other
//     is told so (fault.Changed).
//   - A change that was appended is on the database's disk, and on that of its synchronous
//     replica where it has one. Each append checks that the server waits for them. If the
//     server gave up waiting, the append is not known to have succeeded.
//   - A change that waits for the synchronous replica is not shown to anyone before: this
//     package never asks the server to cancel a statement, since a cancelled wait shows
//     the change at once.
//   - The server is verified by TLS unless it is a Unix socket. The environment changes
//     nothing: no variable, no ~/.pgpass, no service file.
//   - Nothing depends on a session: no prepared statement, no setting outside of a
//     transaction. So it works through PgBouncer in transaction mode. NOTIFY is a hint,
//     which LISTEN takes only where no pooler is between.
//   - What is read is bounded, and a row that Holdfast did not write is an error
//     (fault.FleetLog).
//
// What the database says is not trusted: bodies are sealed by who appends them.
package postgres
