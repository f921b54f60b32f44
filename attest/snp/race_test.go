//go:build race

package snp_test

// every is how many bytes apart are changed in turn: the race detector makes
// signatures slow.
const every = 23
