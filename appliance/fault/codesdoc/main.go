// Command codesdoc writes docs/codes.md from the registry of codes.
package main

import (
	"fmt"
	"os"

	"holdfast/appliance/fault"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: codesdoc FILE")
		os.Exit(2)
	}
	if err := os.WriteFile(os.Args[1], []byte(fault.Document()), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "codesdoc:", err)
		os.Exit(1)
	}
}
