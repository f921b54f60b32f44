package auditlog

import (
	"errors"
	"os"
	"syscall"
	"unsafe"
)

// blockSize is a multiple of what each disk writes at once. Direct writes are of whole
// blocks, at places and from memory that are multiples of it (open(2), O_DIRECT).
const blockSize = 4096

// mostDirect bounds the memory for direct writes. A larger batch, of a disk that has stalled,
// goes through the page cache.
const mostDirect = 1 << 20

// direct writes into the space that is reserved of a segment, past the page cache: through
// the cache, the fsync of a batch takes half as much again of time and of the processor, to
// find and lock what the cache has to write. The block in which the records end is written
// again with those that follow, with the same bytes before them, as the cache does it too.
type direct struct {
	// file is the segment opened for such writes; nil if its file system does not take them.
	file *os.File
	// buf is the memory to write from. Up to tail it has what stands before at in at's block.
	buf  []byte
	at   int64
	tail int
}

// open takes over a segment.
func (d *direct) open(segment *os.File) {
	d.close()
	d.at, d.tail = 0, 0
	if f, err := os.OpenFile(segment.Name(), os.O_RDWR|syscall.O_DIRECT, 0); err == nil {
		d.file = f
	}
}

// close has the segment written through the page cache from now on.
func (d *direct) close() {
	if d.file != nil {
		_ = d.file.Close() // nothing is buffered
		d.file = nil
	}
}

// write writes lines at the end of the records in a segment, which is at, and zero bytes
// behind them to the end of the block. It is done if nothing but reserved space is written
// over, and says whether it was.
func (d *direct) write(segment *os.File, lines []byte, at, reserved int64) (bool, error) {
	from := at &^ (blockSize - 1)
	n := int(at-from) + len(lines)
	whole := (n + blockSize - 1) &^ (blockSize - 1)
	if d.file == nil || whole > mostDirect || from+int64(whole) > reserved {
		return false, nil
	}
	d.grow(whole)
	if d.at != at { // others have written
		d.tail = int(at - from)
		if _, err := segment.ReadAt(d.buf[:d.tail], from); err != nil {
			d.at = -1 // nothing stands before
			return false, err
		}
		d.at = at
	}
	copy(d.buf[d.tail:], lines)
	clear(d.buf[n:whole])
	_, err := d.file.WriteAt(d.buf[:whole], from)
	if errors.Is(err, syscall.EINVAL) { // the disk wants larger blocks
		d.close()
		return false, nil
	}
	if err != nil {
		return false, err
	}
	d.at, d.tail = at+int64(len(lines)), n%blockSize
	copy(d.buf, d.buf[n-d.tail:n])
	return true, nil
}

// grow makes room for n bytes, and keeps the tail.
func (d *direct) grow(n int) {
	if len(d.buf) >= n {
		return
	}
	b := make([]byte, 2*n+blockSize)
	if odd := int(uintptr(unsafe.Pointer(&b[0])) & (blockSize - 1)); odd != 0 {
		b = b[blockSize-odd:]
	}
	copy(b, d.buf[:d.tail])
	d.buf = b
}
