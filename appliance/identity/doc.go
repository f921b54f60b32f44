// Package identity is who may use the admin console and the admin API: users,
// roles, how they prove who they are, their sessions and their API tokens.
package identity
