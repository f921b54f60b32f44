// Package privatefile holds the rule for files with secrets (keys, PINs, tokens):
// only their owner may read or change them. Use it for each such file that is read
// or written.
//
// On Unix the rule is about the mode: no permission for the group and for others.
// On Windows it is about the access control list (DACL): it may allow access to the
// owner, the user of this process, SYSTEM and Administrators alone. The last two can
// take every file, as root can on Unix.
package privatefile

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Exposed is the error of a file that others than its owner may read or change.
type Exposed struct {
	// Who says who may, or by which mode.
	Who string
	// Remedy is the command that mends it.
	Remedy string
}

func (e *Exposed) Error() string {
	return fmt.Sprintf("others than its owner may read it (%s): %s", e.Who, e.Remedy)
}

// Check says whether an open file keeps the rule. Errors: an [*Exposed]; or why it
// cannot be told.
func Check(f *os.File) error { return check(f) }

// Open opens a file for reading that keeps the rule. Errors: an [*Exposed], with the
// file's name before it; or those of [os.Open].
func Open(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := Check(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Create makes a file, which must not exist, that keeps the rule from its first
// moment.
func Create(path string) (*os.File, error) { return create(path) }

// Write makes a file as [Create] does and writes the content. What was written in
// part is removed.
func Write(path string, content []byte) error {
	f, err := Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(path)
	}
	return err
}

// Replace writes a file whole or not at all, and durably, in place of one that there
// may be. The new one keeps the rule.
func Replace(path string, write func(io.Writer) error) (err error) {
	f, err := createTemp(filepath.Dir(path), filepath.Base(path))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// createTemp makes a file beside the one of that name.
func createTemp(dir, name string) (*os.File, error) {
	for {
		f, err := Create(filepath.Join(dir, "."+name+"."+rand.Text()))
		if !errors.Is(err, fs.ErrExist) {
			return f, err
		}
	}
}

// SyncDir makes durable that files of a directory came and went. Windows' file
// systems do so by themselves.
func SyncDir(dir string) error { return syncDir(dir) }
