// Package modules starts the processes of PKCS#11 modules: the running program again, with
// the word that makes it one. Programs that open tokens call [Main] before all else.
package modules

import (
	"fmt"
	"os"

	"holdfast/hsm"
	"holdfast/hsm/module"
	"holdfast/hsm/process"
)

// Launcher starts module processes of the running program, which must call [Main].
func Launcher() hsm.Launcher {
	return process.Child{Program: "/proc/self/exe", Arguments: []string{module.Argument}}
}

// Main does the work of a module process and ends it, if this process is one.
func Main() {
	if !module.Is(os.Args) {
		return
	}
	if err := module.Main(uint32(os.Getuid())); err != nil {
		fmt.Fprintln(os.Stderr, "module process: "+err.Error())
		os.Exit(1)
	}
	os.Exit(0)
}
