//go:build !race

package holdfastd

// oneIn is of how many cases of a matrix one is tried: all.
const oneIn = 1
