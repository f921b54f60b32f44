package hsmtest

import (
	"os"

	"holdfast/hsm"
	"holdfast/hsm/module"
	"holdfast/hsm/process"
)

// moduleArgument makes a test binary a module process.
const moduleArgument = "holdfast-module-process"

func init() {
	if len(os.Args) == 2 && os.Args[1] == moduleArgument {
		if err := module.Main(uint32(os.Getuid()), ""); err != nil {
			panic(err)
		}
		os.Exit(0)
	}
}

// Launcher starts module processes: the test binary again.
func Launcher() hsm.Launcher {
	return process.Child{Program: "/proc/self/exe", Arguments: []string{moduleArgument}}
}
