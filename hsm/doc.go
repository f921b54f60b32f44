// Package hsm works with one PKCS#11 token: it opens it, keeps it open, and
// does AES-GCM inside of it. Use [Open] with the vendor's module and the
// token's label or serial number.
//
// # Guarantees
//
//   - The master key never leaves the token: it is made there, sensitive and
//     not extractable, and a key found under its label that is not so is refused.
//   - A PIN that the token refuses is tried once and never again, also not when
//     the token is opened anew: HSMs lock after a few attempts.
//   - A session that is lost costs one retry. A token that is lost is opened
//     anew in the background, with growing pauses; meanwhile operations fail at
//     once with [ErrUnavailable].
//   - No more than Config.MaxSessions calls are in the module at once, whatever
//     the load. A call that hangs does not hang its caller beyond its context.
//
// crypto11 loads the module, chooses the token, makes and finds keys. Login,
// sessions, AES-GCM and recovery go through github.com/miekg/pkcs11 beneath it:
// crypto11 neither evicts dead sessions nor logs in again, its AEAD panics when
// the token fails, and it would keep a copy of the PIN.
package hsm
