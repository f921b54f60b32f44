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
// Package [holdfast/appliance/audit/auditlog] writes such a log. This package has
// its records and its files' format, and reads, searches and verifies it, on every
// platform that Go knows.
//
// # Guarantees
//
//   - Records are numbered from 0 without a gap, and their times do not go back.
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
//     log. Keep checkpoints elsewhere, and give Verify
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
package audit
