// Package machine is the wing of what is about this computer and not about keys:
// boot (the way to serving, with evidence), volume (the encrypted disk of the
// state), instance (what EC2 says about the machine) and certificate (its TLS
// certificate). It has no code of its own.
package machine
