// Package conformance checks from outside whether an XKS proxy, of whatever
// make, keeps to the XKS proxy API specification 1.0.3. It plays the part of AWS
// KMS: honest requests first, then all those that a proxy must refuse. It is
// the engine of "holdfast check".
//
// Every rule is one entry of a table: an ID that stays the same from version to
// version, the rule in one sentence, its source, and the function that tries it.
// The tables stand by theme:
//
//	transport.go  tls/ http/     TLS, HTTP/1.1 and HTTP/2, slow and endless requests
//	sigv4.go      sigv4/         honest and forged signatures
//	uri.go        uri/ method/   paths and methods
//	shapes.go     health/ metadata/ encrypt/ tolerance/   what a good answer looks like
//	crypto.go     decrypt/ cdiv/ limits/   AES-GCM, and what must not decrypt
//	validation.go validation/    missing and malformed input
//	keys.go       usage/ state/ grants/    keys and callers that may not do all
//	errors.go     errors/        what every error answer has in common
//	load.go       latency/ load/ KMS's 250 ms
//
// Honest requests are signed by AWS's own signer (aws-sdk-go-v2), which shares
// no code with the verifier of Holdfast. Signatures that an honest signer cannot
// make come from [forgery].
//
// A check changes nothing in the proxy: the API has no operation that does. It
// does encrypt, some hundreds of times, with the keys it is given. Neither
// results nor errors hold a secret or a plaintext, nor text that a proxy sent
// except the names of its errors.
package conformance
