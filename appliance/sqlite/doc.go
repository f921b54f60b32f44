// Package sqlite keeps rows in one SQLite file. It has the
// [appliance.Store], [identity.Store] and [approval.Store] of a single appliance, and the
// rows about its machine ([Machine]); a fleet that shares its state needs
// another engine for the first three.
//
// # Guarantees
//
//   - A method that returned nil has its change on the disk: a crash of the
//     process or of the machine does not undo it (write-ahead log,
//     synchronous=FULL).
//   - A method that returned an error changed nothing. This holds for contexts
//     that end, too: a change not yet begun is withdrawn (fault.Timeout), and one
//     that has begun is waited for. The one exception is a disk that fails
//     while a change is committed: the error says so, and nothing more is
//     written until the database has been opened anew.
//   - Each read is of one snapshot, and waits for no write.
//   - Writes from several callers at once share one fsync (group commit), each
//     with its own success or error.
//   - The store sees secrets only as opaque, sealed blobs. It notices damage
//     when it is opened; that a row was edited by hand is for the seals to tell.
//   - Databases are migrated forward when they are opened, never back.
package sqlite
