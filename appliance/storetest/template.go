package storetest

import (
	"os"
	"path/filepath"
	"sync"
)

// Template gives a function that makes an empty database as create does at a path, and closes
// it; one that is there stays. Only the first call does so: its file is what all others copy. The migrations of a
// new database, each with its sync to the disk, would take most of the time of a short test.
func Template(create func(path string) error) func(path string) error {
	file := sync.OnceValues(func() ([]byte, error) {
		dir, err := os.MkdirTemp("", "template")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "db")
		if err := create(path); err != nil {
			return nil, err
		}
		return os.ReadFile(path)
	})
	return func(path string) error {
		if _, err := os.Lstat(path); err == nil {
			return nil
		}
		content, err := file()
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		return os.WriteFile(path, content, 0o600)
	}
}
