// Package identity is who may use the admin console and the admin API: users,
// roles, how they prove who they are, their sessions, and API tokens.
//
// A [Directory] does it all; a [Store] keeps its rows, and [Seals] authenticates them
// under the state key of the installation: a user, invitation or API token whose row
// has no good seal is refused. Before there is an installation nobody can seal a row:
// the first unlock seals those that are there ([Directory.SealAll]).
//
// The package works while the appliance is locked, since somebody has to sign in to
// give the HSM's PIN. Nobody can look at a seal then. Users may sign in, and their
// principal says that it is unverified, so that they may do little; everything else
// is refused. Sessions have a seal of the process as well, which decides then.
//
// Several nodes of a fleet have a Directory each, over the same rows: what a browser carries
// from one request to the next is sealed for all of them, and what can be done once is a row
// (docs/adr/0015-memory.md).
//
// Two users may be one person. Who helped to make a user is kept with it
// ([Origin]), and [Directory.MayApprove] says who counts as the second person.
//
// There is no default password. While there is no user, and never was one, a setup
// code, which only root on the machine can read, admits the first administrator; all
// others come by an invitation.
//
// Of passwords an argon2id hash is stored, of sessions, invitations, API tokens
// and recovery codes a SHA-256: they are random. The secret of an authenticator
// app (TOTP) has to be stored as it is.
//
// Every proof that fails gives the same error, [ErrProof], whatever was wrong with
// it; the log says what.
package identity
