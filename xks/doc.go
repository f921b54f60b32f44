// Package xks is the XKS proxy API, version 1.0.3 of the specification, which
// AWS KMS calls: GetKeyMetadata, Encrypt, Decrypt and GetHealthStatus, over
// HTTPS, signed with Signature Version 4.
//
// # The life of a request
//
//   - [Server] accepts the connection and drops those that do not come to
//     authenticate; it reads the headers within limits of size and time.
//   - [API.ServeHTTP] finds the key store by the URI path prefix and the
//     operation by the rest of the path, and checks the claim of the signature
//     (package xks/sigv4) before it reads the body, bounded, and verifies it.
//   - The domain checks the signature and the quota and gives a session
//     ([appliance.Session]). The operation reads the body and calls the session,
//     which asks all other checks, uses the key and records the outcome.
//   - The answer is JSON, whatever layer it comes from, and one line is logged if it is an error.
//
// The package knows the domain (package appliance) through the interface
// [KeyStores], and neither SQL nor PKCS#11.
package xks
