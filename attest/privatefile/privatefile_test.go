package privatefile_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"holdfast/attest/privatefile"
)

// folder makes a folder for the test's files. It does without t.TempDir: Wine 8 cannot
// do what os.RemoveAll asks of Windows.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "privatefile")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		for _, f := range files {
			err = errors.Join(err, os.Remove(f))
		}
		if err := errors.Join(err, os.Remove(dir)); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// read reads a file that must keep the rule.
func read(t *testing.T, path string) string {
	t.Helper()
	f, err := privatefile.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestWritten: what is written keeps the rule, is whole, and takes the place of
// nothing, unless that is asked for.
func TestWritten(t *testing.T) {
	dir := folder(t)
	secret := filepath.Join(dir, "secret")
	if err := privatefile.Write(secret, []byte("one")); err != nil {
		t.Fatal(err)
	}
	if got := read(t, secret); got != "one" {
		t.Errorf("it has %q", got)
	}
	if err := privatefile.Write(secret, []byte("two")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over another: %v", err)
	}
	if _, err := privatefile.Create(secret); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over another: %v", err)
	}
	if _, err := privatefile.Create(filepath.Join(dir, "none", "secret")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without its folder: %v", err)
	}
	for range 2 {
		err := privatefile.Replace(secret, func(w io.Writer) error {
			_, err := w.Write([]byte("three"))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, secret); got != "three" {
			t.Errorf("it has %q", got)
		}
	}
	failed := errors.New("half")
	err := privatefile.Replace(secret, func(w io.Writer) error {
		_, _ = w.Write([]byte("ha"))
		return failed
	})
	if !errors.Is(err, failed) || read(t, secret) != "three" {
		t.Errorf("%v; it has %q", err, read(t, secret))
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("%v; there are %v", err, left)
	}
	if _, err := privatefile.Open(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
}

// refused says that the file does not keep the rule, who may read it, and what to do.
func refused(t *testing.T, path, who, remedy string) {
	t.Helper()
	f, err := privatefile.Open(path)
	if f != nil {
		_ = f.Close()
	}
	exposed, ok := errors.AsType[*privatefile.Exposed](err)
	if !ok {
		t.Errorf("%s, for others: %s: %v", path, who, err)
		return
	}
	if exposed.Who != who || exposed.Remedy != remedy {
		t.Errorf("%s: it says %q and %q, want %q and %q", path, exposed.Who, exposed.Remedy, who, remedy)
	}
}
