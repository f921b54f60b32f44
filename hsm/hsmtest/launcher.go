package hsmtest

import (
	"os"

	"holdfast/hsm"
	"holdfast/hsm/module"
	"holdfast/hsm/process"
)

func init() {
	if module.Is(os.Args) {
		if err := module.Main(uint32(os.Getuid()), ""); err != nil {
			panic(err)
		}
		os.Exit(0)
	}
}

// Launcher starts module processes: the test binary again.
func Launcher() hsm.Launcher {
	return process.Child{Program: "/proc/self/exe", Arguments: []string{module.Argument}}
}
