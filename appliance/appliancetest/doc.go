// Package appliancetest is for tests of the domain, and of what is built on it: a bed
// runs a whole appliance on a SQLite database and a token, and clients use its keys
// through the domain's sessions. There is no HTTP: where that is tested, use
// xks/xkstest, which builds on this package.
//
// The token is one in memory ([Memory]), which a test may take away or have answer
// late, and whose calls it may count. [PKCS11] gives a bed a real one: use it where
// the test is about PKCS#11, keys in the HSM's custody, outages of an HSM, crashes, or
// several tokens. Tests show that both behave alike.
//
// Nothing else in a bed is a double but the clock, if a test wants one.
package appliancetest
