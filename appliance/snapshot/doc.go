// Package snapshot is the form in which rows move from one database to another,
// which may be of another engine: a stream of tables and rows in which no engine
// is named. A backup is such a stream, encrypted.
//
// # Format
//
// A stream begins with the line "holdfast-rows/v1" and the number of the schema
// whose tables it has. Then come the tables, each with its columns and its rows,
// and then the end with the number of all rows. What has no end is cut off, and
// nothing may follow the end.
//
//	stream = "holdfast-rows/v1\n" schema table* end
//	table  = "T" name count name* row*     name, number of columns, columns
//	row    = "R" value*                    one value for each column
//	end    = "E" count                     number of rows of all tables
//	name   = count byte*                   1 to 64 of a-z, 0-9 and '_'
//	value  = "n"                           NULL
//	       | "i" integer                   zigzag varint
//	       | "t" count byte*               text; as it was stored, though it be no UTF-8
//	       | "b" count byte*               blob
//
// Counts and the schema are unsigned varints, as in encoding/binary, in their
// shortest form. So there is one stream for the same rows.
//
// # Guarantees
//
//   - A [Reader] reads no more into memory than [MaxValue] for a value and [MaxRow] for
//     a row, whatever the stream says.
//   - The stream has no signature: who carries it authenticates it. A backup is
//     encrypted and authenticated as a whole (package appliance).
//   - A later version of the format has another first line. Readers keep reading this
//     one.
package snapshot
