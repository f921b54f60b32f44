// Package certificate keeps the TLS certificate of this machine, in two PEM files,
// for all its listeners, or follows the one that all nodes of an installation share. It makes the first one, follows renewals, makes requests
// for a certificate (PKCS #10, RFC 2986) and installs what an authority answers. A
// chain that does not belong to the key, or is not valid, is never installed.
package certificate
