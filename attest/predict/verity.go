package predict

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// verityBlock is the size of data and hash blocks, in bytes.
const verityBlock = 4096

// verity is what the command line says of the root file system:
// holdfast.verity=<data blocks>:<salt>:<root hash>, the last two in hexadecimal.
type verity struct {
	blocks int64
	salt   []byte
	root   []byte
}

func parseVerity(cmdline string) (*verity, error) {
	const name = "holdfast.verity"
	var value string
	for _, token := range strings.Fields(strings.TrimRight(cmdline, "\x00")) {
		if v, ok := strings.CutPrefix(token, name+"="); ok {
			value = v
		}
	}
	if value == "" || strings.Count(cmdline, name) != 1 {
		return nil, fmt.Errorf("the command line must have %s=<data blocks>:<salt>:<root hash> once; it is %.200q", name, cmdline)
	}
	wrong := fmt.Errorf("the command line has %s=%.300q, which is not <data blocks>:<salt>:<root hash> with a SHA-256 root hash", name, value)
	parts := strings.Split(value, ":")
	if len(parts) != 3 {
		return nil, wrong
	}
	blocks, err1 := strconv.ParseUint(parts[0], 10, 40)
	salt, err2 := hex.DecodeString(parts[1])
	root, err3 := hex.DecodeString(parts[2])
	const maxSalt = 256 // the kernel's
	if errors.Join(err1, err2, err3) != nil || blocks == 0 || len(salt) > maxSalt || len(root) != sha256.Size {
		return nil, wrong
	}
	return &verity{int64(blocks), salt, root}, nil
}

// check computes the hash tree of the data, and compares it with the partition
// that has the tree and with the root hash (dm-verity format 1; Linux,
// Documentation/admin-guide/device-mapper/verity.rst): each block is hashed after
// the salt, hashes are packed into blocks that are hashed likewise, until there is
// one. The partition has the levels from the top downwards.
func (v *verity) check(data, tree *io.SectionReader) error {
	if data.Size()/verityBlock < v.blocks {
		return fmt.Errorf("the root partition has %d bytes, and the command line says %d blocks of %d", data.Size(), v.blocks, verityBlock)
	}
	level, err := v.hashes(io.NewSectionReader(data, 0, v.blocks*verityBlock))
	if err != nil {
		return fmt.Errorf("the root partition: %w", err)
	}
	var levels [][]byte
	for len(level) > sha256.Size {
		level = append(level, make([]byte, -len(level)&(verityBlock-1))...)
		levels = append(levels, level)
		if level, err = v.hashes(bytes.NewReader(level)); err != nil {
			return err
		}
	}
	if !bytes.Equal(level, v.root) {
		return fmt.Errorf("the root partition has the root hash %x, and the command line says %x: one of them was changed after the other was made", level, v.root)
	}
	at := int64(0)
	for i := len(levels) - 1; i >= 0; i-- {
		found := make([]byte, len(levels[i]))
		if _, err := tree.ReadAt(found, at); err != nil {
			return fmt.Errorf("the hash partition is too small for the hash tree, or cannot be read: %w", err)
		}
		if !bytes.Equal(found, levels[i]) {
			return errors.New("the hash partition is not the hash tree of the root partition, so that the kernel would stop; write it again")
		}
		at += int64(len(found))
	}
	return nil
}

// hashes gives the hash of each block, one after the other.
func (v *verity) hashes(r io.Reader) ([]byte, error) {
	buffered := bufio.NewReaderSize(r, 256*verityBlock)
	block := make([]byte, verityBlock)
	var all []byte
	h := sha256.New()
	for {
		switch _, err := io.ReadFull(buffered, block); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		}
		h.Reset()
		h.Write(v.salt)
		h.Write(block)
		all = h.Sum(all)
	}
}
