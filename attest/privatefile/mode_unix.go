//go:build unix

package privatefile

import (
	"errors"
	"fmt"
	"os"
)

// others are the permissions that nobody but the owner may have.
const others = 0o077

func check(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&others != 0 {
		return &Exposed{Who: fmt.Sprintf("mode %04o", mode), Remedy: "chmod 600 it"}
	}
	return nil
}

func create(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
