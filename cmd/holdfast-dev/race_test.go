//go:build race

package main

// With the race detector there are fewer: make test tries all of them without it as well.
const manyEntries, fileEntries = 1000, 500
