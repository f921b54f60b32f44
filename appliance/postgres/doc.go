// Package postgres keeps the log of changes of one installation in a PostgreSQL database,
// for several appliances that serve it together (docs/adr/0015-fleet.md). Use it where
// one machine is not enough; package sqlite keeps the rows themselves, on each machine.
//
// # Guarantees
//
//   - Of two appliances that append a change with the same number, one succeeds and the
//     other is told so (fault.Changed).
//   - A change that was appended is on the database's disk, and on that of its synchronous
//     replica where it has one: a server that commits without waiting for its disk is
//     refused.
//   - The server is verified by TLS unless it is reached by a Unix socket.
//   - Nothing depends on a session: no LISTEN, no prepared statement, no setting. So it
//     works through PgBouncer in transaction mode.
//
// What the database says is not trusted: bodies are sealed by who appends them.
package postgres
