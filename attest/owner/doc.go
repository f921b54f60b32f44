// Package owner is what the customer of an image stands for with a key of their own:
// the owner. It signs a launch file, which says what a machine serves and for whom
// (package appliance/launch), and carries it to the machine.
//
// Nothing here reads what is in a launch file. A file counts by the digest of its exact
// bytes: it is signed, measured and compared by that, before anybody parses it.
//
// What [Open] guarantees: the envelope is one of a launch file and of nothing else, it
// names this file, and the owner's key that it names has signed it. Whether that owner
// is the right one is for the caller to say: a machine remembers, a verifier is told.
package owner
