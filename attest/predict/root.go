package predict

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/filesystem/squashfs"
)

// root is the root file system. It follows symbolic links, within itself, as a
// machine that has it as its root does.
type root struct {
	fs *squashfs.FileSystem
}

func openRoot(partition *io.SectionReader) (*root, error) {
	return guard(func() (*root, error) {
		f, err := squashfs.Read(storage{partition}, partition.Size(), 0, 0)
		if err != nil {
			return nil, err
		}
		return &root{f}, nil
	})
}

// Open implements [fs.FS], for regular files.
func (r *root) Open(name string) (fs.File, error) {
	f, err := guard(func() (fs.File, error) {
		if !fs.ValidPath(name) {
			return nil, fs.ErrInvalid
		}
		return r.open(name)
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return guarded{f}, nil
}

func (r *root) open(name string) (fs.File, error) {
	const maxLinks = 40 // Linux's MAXSYMLINKS
	rest, done := strings.Split(name, "/"), "."
	for links := 0; len(rest) > 0; {
		var next string
		next, rest = rest[0], rest[1:]
		switch next {
		case "", ".":
			continue
		case "..":
			done = path.Dir(done)
			continue
		}
		entry, err := r.entry(done, next)
		if err != nil {
			return nil, err
		}
		if entry.Type()&fs.ModeSymlink == 0 {
			done = path.Join(done, next)
			continue
		}
		link, ok := entry.(interface{ Readlink() (string, error) })
		if links++; !ok || links > maxLinks {
			return nil, errors.New("too many symbolic links")
		}
		target, err := link.Readlink()
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(target, "/") {
			done = "."
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return r.fs.Open(done)
}

func (r *root) entry(dir, name string) (fs.DirEntry, error) {
	entries, err := r.fs.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Name() == name {
			return e, nil
		}
	}
	return nil, fs.ErrNotExist
}

// guarded is a file whose reading does not panic.
type guarded struct{ fs.File }

func (g guarded) Read(b []byte) (int, error) {
	return guard(func() (int, error) { return g.File.Read(b) })
}

// guard turns a panic into an error: the library was made for disks that are as
// they should be.
func guard[T any](f func() (T, error)) (v T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("it is damaged: %v", r)
		}
	}()
	return f()
}

// storage is a part of the image as the library wants it: read only.
type storage struct{ *io.SectionReader }

func (storage) Stat() (fs.FileInfo, error)              { return nil, backend.ErrNotSuitable }
func (storage) Close() error                            { return nil }
func (storage) Sys() (*os.File, error)                  { return nil, backend.ErrNotSuitable }
func (storage) Writable() (backend.WritableFile, error) { return nil, backend.ErrIncorrectOpenMode }
func (storage) Path() string                            { return "" }
