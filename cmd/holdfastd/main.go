// Command holdfastd is what runs on machines: serve runs the appliance, broker serve
// the broker, volume open the disk of the appliance's state. holdfast is the tool
// that administers them.
//
// It exits 0 when the work is done, 1 when it was refused or failed, and 2 when
// the call itself is unusable.
package main

import (
	"os"

	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/holdfastd"
)

func main() { os.Exit(cli.Run(holdfastd.New())) }
