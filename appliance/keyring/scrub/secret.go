//go:build goexperiment.runtimesecret

package scrub

import "runtime/secret"

// Enabled says whether Do erases.
const Enabled = true

// Do calls f, then erases the registers and the stack that f used. What f put
// on the heap is erased as soon as it is garbage.
func Do(f func()) { secret.Do(f) }
