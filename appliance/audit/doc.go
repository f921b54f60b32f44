// Package audit is a log of operations in which nothing can be changed, dropped
// or put in unnoticed. It is for records that somebody may later have to prove,
// or deny: who used a key, who changed a grant. Messages for operators belong
// in a [log/slog] log, which costs less and promises nothing.
//
// A record is one line of JSON. The lines are the leaves of a Merkle tree
// (RFC 6962), whose root is signed each second: a checkpoint. Whoever has the
// public key can check the whole log ([Verify]), or one record of it without
// the rest ([InclusionProof], [CheckInclusion]).
//
//	l, err := audit.Open(dir, audit.Options{LogID: "appliance-1", Signer: signer})
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
//   - Records are numbered from 0 without a gap, and their times do not go back.
//   - A disk that is full refuses records before its last bytes are used, leaves
//     no half of one, and takes records again when there is space. After an fsync
//     that failed for another reason nothing is written until the log has been
//     opened anew.
//   - Open cuts off a torn last line, which was never acknowledged, and refuses
//     anything else that is wrong with the end of the log. Old records it does
//     not read: Verify does.
//   - A change of what a checkpoint covers is found by Verify: a record edited,
//     dropped, moved, copied or cut off, a segment gone or swapped, a checkpoint
//     edited, or removed from among others. It names the first wrong line.
//   - Retention removes whole segments, the oldest first, after a signed record
//     has said so. Verify takes no segment for removed without it. The hashes
//     stay, so that old checkpoints can still be checked against the log.
//
// # What it does not guarantee
//
//   - Records that no checkpoint covers yet are without protection: one second,
//     or 65,536 records. Whoever may write to the disk can change them.
//     [Report] says how many they are.
//   - Whoever may write to the disk can put back an older copy of the whole log,
//     or cut records and checkpoints off its end together: what is left is a good
//     log. Keep checkpoints elsewhere (Options.OnCheckpoint), and give Verify
//     the newest: it finds both.
//   - Whoever can sign with the key can write another log. A key in a TPM cannot
//     be copied, but who rules the machine can have it sign. Against that as well
//     a checkpoint kept elsewhere helps: the past that it covers cannot be
//     rewritten any more. That the records were true when they were written is
//     beyond any log.
//   - Records are not secret. Keep keys and plaintext out of them.
//   - The indexes of Search are not signed. Who may write to the disk can hide
//     records from a search, though not from Verify. What Search gives is not
//     checked against the tree.
//
// # Files
//
//	00000000000000000000.jsonl         a segment, named by its first record
//	00000000000000000000.jsonl.index   made when the segment has ended
//	tree                               32 bytes per hash, as [tlog.StoredHashIndex] places them
//	checkpoints                        signed notes, each with a blank line after it
//	lock                               held by the process that writes
//
// Indexes may be deleted; they are made anew. So is the tree, as long as
// retention has removed nothing. Segments and checkpoints must be kept.
//
// # Cost
//
// On a server with SHA instructions a record of 480 bytes takes 2 to 3 µs of CPU when
// 32 callers log at once, besides the fsync, which they share; 0.4 µs of it is
// encoding and 0.5 µs hashing. Its hashes take 64 bytes of disk, its index 36;
// a checkpoint takes 230.
// Making the index takes another microsecond, in the background, when the
// segment has ended. A search through 10 million records takes some
// hundredths of a second.
package audit
