// Package coredump keeps key material out of core dumps.
package coredump
