// Package identity is who may use the admin console and the admin API: users,
// roles, how they prove who they are, their sessions, and API tokens.
//
// A [Directory] does it all; a [Store] keeps its rows. It works while the
// appliance is locked, since the first administrator has to sign in to have the
// HSM's PIN sealed. So its rows are not sealed under the HSM as those of keys are:
// who can write to the state volume can make themselves an administrator. What
// keeps others off that volume is its encryption.
//
// There is no default password. While there is no user, a setup code, which only
// root on the machine can read, admits the first administrator; all others come
// by an invitation.
//
// Of passwords an argon2id hash is stored, of sessions, invitations, API tokens
// and recovery codes a SHA-256: they are random. The secret of an authenticator
// app (TOTP) has to be stored as it is.
//
// Every proof that fails gives the same error, [ErrProof], whatever was wrong with
// it; the log says what.
package identity
