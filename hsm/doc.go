// Package hsm works with PKCS#11 tokens: it opens one, keeps it open, and does AES-GCM
// inside of it. Use [Open] with the vendor's module and the token's label or serial number,
// or [OpenCluster] with several that hold the same master key.
//
// The vendor's module is in a process of its own (package module), which this package
// starts, asks and ends. No C code of a vendor is in the process that uses this package.
//
// # Guarantees
//
//   - A PIN that the token refuses is tried once and never again, also not when
//     the token is opened anew: HSMs lock after a few attempts.
//   - A token that is lost, or whose process has ended, is opened anew in the background, in
//     a new process, with growing pauses; meanwhile operations fail at once with
//     [ErrUnavailable].
//   - No more calls than Config.MaxSessions, and than the token allows, are in the token at
//     once, whatever the load. Who comes then waits until the end of its context.
//   - A call that hangs does not hang its caller beyond its context, and does not last longer
//     than Config.CallTimeout: then its process is ended.
package hsm
