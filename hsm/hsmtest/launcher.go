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
	// The race detector has a process sleep for a second before it ends, and tests open many tokens.
	if err := os.Setenv(raceVariable, "atexit_sleep_ms=0 "+os.Getenv(raceVariable)); err != nil {
		panic(err)
	}
}

// raceVariable has the options of the race detector (https://go.dev/doc/articles/race_detector).
const raceVariable = "GORACE"

// Launcher starts module processes: the test binary again.
func Launcher() hsm.Launcher {
	return process.Child{Program: "/proc/self/exe", Arguments: []string{module.Argument}, Environment: []string{raceVariable}}
}
