// Package auditlog writes the log that package [holdfast/appliance/audit] reads and
// verifies: it appends records, signs checkpoints, removes old segments, and mends
// the log's end after a crash. It needs a POSIX file system.
//
//	l, err := auditlog.Open(dir, auditlog.Options{LogID: "appliance-1", Signer: signer})
//	p := l.AppendAsync(&audit.Record{Kind: audit.KindXKS, Operation: "Encrypt"})
//	// ... encrypt, while the disk works ...
//	if err := p.Wait(ctx); err != nil {
//		// Do not answer: the record is not there for certain.
//	}
//
// # Guarantees
//
//   - Append, or Wait, that returned nil has its record on the disk: a crash of
//     the process or of the machine does not undo it. Records of several callers
//     share one write and one fsync.
//   - One that returned an error has not acknowledged its record. The record is
//     not in the log, but for fault.AuditTimeout, where it is not known.
//   - A disk that is full refuses records before its last bytes are used, leaves
//     no half of one, and takes records again when there is space. After an fsync
//     that failed for another reason nothing is written until the log has been
//     opened again.
//   - Open cuts off a torn last line, which was never acknowledged, and refuses
//     anything else that is wrong with the end of the log. Old records it does
//     not read: [audit.Verify] does.
//
// # Cost
//
// On a server with SHA instructions a record of 480 bytes takes 2 to 3 µs of CPU when
// 32 callers log at once, besides the fsync, which they share; 0.4 µs of it is
// encoding and 0.5 µs hashing. Its hashes take 64 bytes of disk, its index 36;
// a checkpoint takes 230.
// Making the index takes another microsecond, in the background, when the
// Segment has ended. A search through 10 million records takes some
// hundredths of a second.
package auditlog
