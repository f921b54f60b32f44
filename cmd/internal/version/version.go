// Package version has the version of the programs.
package version

// Version is the release that this build is. The build sets it:
//
//	go build -ldflags "-X holdfast/cmd/internal/version.Version=1.2.0"
var Version = "dev"
