// Package appliance is the domain of Holdfast: key stores, external keys and
// their versions, SigV4 credentials and grants, and the operations on them.
//
// Every face of the product (the XKS proxy API in xks, the admin API and the
// command line in web and cmd) calls the operations of [Appliance]; none has
// logic of its own. A front end of requests for keys opens a [Session] for each. Below it lie three adapters that know only this package:
// appliance/sqlite keeps rows in SQLite, appliance/keyring holds unlocked keys,
// and hsm speaks to the token.
//
// # Guarantees
//
//   - An operation that returned without error is durable.
//   - A row that was edited outside of this package does not open: every row
//     that says who may do what with which key is sealed (see [Binding]).
//   - A key is used by a [Session] alone, which asks all checks in one order and
//     gives nothing out that is not on record.
//   - An encryption is counted durably before its ciphertext is returned, and
//     no key version encrypts more often than AES-GCM with random IVs allows.
//   - Errors are of type [*fault.Fault]: the message may be shown to a caller, the
//     cause is for the log alone.
package appliance
