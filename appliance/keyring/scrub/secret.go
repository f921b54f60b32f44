//go:build goexperiment.runtimesecret

package scrub

import "runtime/secret"

// Enabled says whether Do erases.
const Enabled = true

// Do calls f, then erases the registers and the stack that f used. What f put
// on the heap is erased when the garbage collector finds it dead, within [Longest];
// [Erase] does so at once.
func Do(f func()) {
	secret.Do(f)
	arm()
}
