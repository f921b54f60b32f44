// Command guardsdoc writes docs/operations-table.md from the table of operations.
package main

import (
	"fmt"
	"os"

	"holdfast/web/operation"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: guardsdoc FILE")
		os.Exit(2)
	}
	if err := os.WriteFile(os.Args[1], []byte(operation.GuardsDocument()), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "guardsdoc:", err)
		os.Exit(1)
	}
}
