//go:build !race

package release_test

// oneIn is of how many cases of a matrix one is tried: all.
const oneIn = 1
