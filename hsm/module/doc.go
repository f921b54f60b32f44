// Package module is the process that works with one PKCS#11 token: it loads the vendor's
// library, logs in, and does what the process that started it asks for ([Serve]). Only the
// program's module command calls it: in no process that holds keys is it used.
//
// # Guarantees
//
//   - The master key never leaves the token: it is made there, sensitive and not
//     extractable, and a key found under its label that is not so is refused.
//   - The PIN is tried once.
//   - A session that is lost costs one retry. A token that is lost stays lost: whoever
//     started the process starts another.
//   - A return value is a claim. After one that is no clear answer to what was asked, the
//     token decrypts a ciphertext that is known to be good: if it does not, it is lost.
//   - What this package allocates has no secret once an answer is out. The library's own
//     memory is its own matter.
//
// It calls PKCS#11 by github.com/miekg/pkcs11. crypto11, which is made of that, gives the
// token up for another slot's trouble, needs sessions that some tokens do not have, and
// panics where the token fails. So it serves for one trial alone, as an implementation that is
// not ours ([wire.Foreign]).
package module
