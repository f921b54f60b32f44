//go:build race

package nitro_test

// The race detector makes the verification of signatures many times slower.
func init() { stride = 11 }
