//go:build !race

package main

// manyEntries is how many keys and how many grants a key store has in TestConsoleManyEntries,
// fileEntries how many keys the file of TestConsoleFiles has.
const manyEntries, fileEntries = 10_000, 2100
