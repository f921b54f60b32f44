// Package scrub runs code that handles key material so that no copy of the
// material stays behind in registers, on the stack or in the garbage of the
// heap.
//
// It is the one place that depends on Go's experimental runtime/secret, which
// is outside of the Go 1 promise and exists only when the program is built
// with GOEXPERIMENT=runtimesecret, as the Makefile does. Built without, Do
// just calls the function: key material itself still rests in locked memory
// that is zeroized, but key schedules and temporaries of the standard library
// stay in the heap until the garbage collector uses their place again.
package scrub
