// Package wire is what a process that uses a PKCS#11 token and its module process say to
// each other. Use [Conn] on both sides of a Unix socket: it carries one request at a time,
// and the answer to it.
//
// # Guarantees
//
//   - A frame has at most [MaxFrame] bytes, whoever sends it. One that cannot be read is an
//     error, and never a panic.
//   - Frames are built and read in memory that is locked, left out of core dumps and of
//     child processes, and cleared as soon as a message was sent, or was used.
package wire
