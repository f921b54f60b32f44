// Package appliance is the domain of Holdfast: key stores, external keys and
// their versions, SigV4 credentials and grants, and the operations on them.
//
// It is five parts over one store, which [Appliance] puts together: [Service]
// answers requests, [Administration] changes things, [Lifecycle] unlocks and locks,
// [Settings] keeps settings and seals, [Backups] writes and restores backups. Type,
// rules and operations of a thing are in the file of its name.
//
// A front end of requests for keys, such as xks, opens a [Session] for each. What
// administrators do is in web/operation, whose operations call the parts. Three
// adapters know this package: appliance/sqlite keeps rows, appliance/keyring holds
// unlocked keys and asks the HSM through package hsm, appliance/audit/recorder
// records.
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
