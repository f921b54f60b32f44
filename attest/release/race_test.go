//go:build race

package release_test

// oneIn is of how many cases of a matrix one is tried: under the race detector each takes many
// times as long. make test tries all of them without it.
const oneIn = 10
