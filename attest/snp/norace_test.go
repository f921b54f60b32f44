//go:build !race

package snp_test

const every = 1
