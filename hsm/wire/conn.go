package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// MaxFrame bounds a frame, in bytes with its length.
const MaxFrame = 256 << 10

// maxFields bounds the fields of a message.
const maxFields = 300

// Message is a request or an answer: what it is about, and fields in an order that each
// [Op] and [Answer] documents.
type Message struct {
	// Kind is an [Op] in a request, and an [Answer] in an answer.
	Kind byte
	// Within is how long who asks waits for the answer, in whole milliseconds; 0 in an
	// answer.
	Within time.Duration
	// Fields alias the connection's memory where a message was received: they are gone
	// at [Conn.Done].
	Fields [][]byte
}

// Stream is what a connection needs of a socket.
type Stream interface {
	io.ReadWriteCloser
	SetDeadline(t time.Time) error
}

// Conn carries messages. It is for one goroutine at a time.
type Conn struct {
	stream  Stream
	in, out memory
	n       int // bytes of the frame in in, while one is being received
}

// NewConn makes a connection of a stream. To close it is the caller's part. The error is of
// the memory that could not be locked.
func NewConn(s Stream) (*Conn, error) {
	c := &Conn{stream: s}
	if err := errors.Join(c.in.grow(first, 0), c.out.grow(first, 0)); err != nil {
		c.in.free()
		c.out.free()
		return nil, err
	}
	return c, nil
}

// Close closes the stream and gives the memory back, cleared.
func (c *Conn) Close() error {
	err := c.stream.Close()
	c.in.free()
	c.out.free()
	c.n = 0
	return err
}

// SetDeadline sets until when sending and receiving may take. A frame of which a part was
// received is received further by the next [Conn.Receive].
func (c *Conn) SetDeadline(t time.Time) error { return c.stream.SetDeadline(t) }

// The sizes of a frame's parts, in bytes.
const (
	lengthBytes = 4
	headBytes   = lengthBytes + 1 + 4 // and kind, and milliseconds
)

// Send sends a message, and clears the copy of it.
func (c *Conn) Send(m Message) error {
	n := headBytes
	for _, f := range m.Fields {
		n += lengthBytes + len(f)
	}
	if n > MaxFrame || len(m.Fields) > maxFields {
		return fmt.Errorf("a message of %d bytes in %d fields; at most %d and %d are sent", n, len(m.Fields), MaxFrame, maxFields)
	}
	if err := c.out.grow(n, 0); err != nil {
		return err
	}
	b := binary.BigEndian.AppendUint32(c.out[:0], uint32(n-lengthBytes))
	b = append(b, m.Kind)
	b = binary.BigEndian.AppendUint32(b, uint32(min(m.Within.Milliseconds(), 1<<31)))
	for _, f := range m.Fields {
		b = binary.BigEndian.AppendUint32(b, uint32(len(f)))
		b = append(b, f...)
	}
	_, err := c.stream.Write(b)
	clear(b)
	return err
}

// ErrFrame: what came is no frame of this protocol, or no answer to what was asked.
var ErrFrame = errors.New("the other side does not keep to the protocol")

// Receive gives the next message. After an error of the deadline it goes on with the same
// frame; after another, the connection is of no use.
func (c *Conn) Receive() (Message, error) {
	for need := headBytes; ; {
		for c.n < need {
			n, err := c.stream.Read(c.in[c.n:need])
			c.n += n
			if err != nil && c.n < need {
				return Message{}, err
			}
		}
		length := int(binary.BigEndian.Uint32(c.in))
		if length < headBytes-lengthBytes || length > MaxFrame-lengthBytes {
			return Message{}, ErrFrame
		}
		if need == lengthBytes+length {
			return parse(c.in[lengthBytes:need])
		}
		need = lengthBytes + length
		if err := c.in.grow(need, c.n); err != nil {
			return Message{}, err
		}
	}
}

func parse(b []byte) (Message, error) {
	m := Message{Kind: b[0], Within: time.Duration(binary.BigEndian.Uint32(b[1:])) * time.Millisecond}
	for b = b[headBytes-lengthBytes:]; len(b) > 0; {
		if len(b) < lengthBytes || len(m.Fields) == maxFields {
			return Message{}, ErrFrame
		}
		n := binary.BigEndian.Uint32(b)
		if uint64(n) > uint64(len(b)-lengthBytes) {
			return Message{}, ErrFrame
		}
		end := lengthBytes + int(n)
		m.Fields = append(m.Fields, b[lengthBytes:end:end])
		b = b[end:]
	}
	return m, nil
}

// Done clears what was received.
func (c *Conn) Done() {
	clear(c.in[:c.n])
	c.n = 0
}

// memory is locked, and in no core dump and no child process.
type memory []byte

// first is the memory of a connection before a larger frame comes.
const first = 16 << 10

// grow has the memory hold n bytes. The first keep of them stay.
func (m *memory) grow(n, keep int) error {
	if n <= len(*m) {
		return nil
	}
	page := unix.Getpagesize()
	b, err := unix.Mmap(-1, 0, (n+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return fmt.Errorf("map memory for the HSM's answers: %w", err)
	}
	if err = unix.Mlock(b); err != nil {
		err = fmt.Errorf("lock memory for the HSM's answers: %w; raise the limit of locked memory (ulimit -l, or LimitMEMLOCK= in the systemd unit)", err)
	} else if err = errors.Join(unix.Madvise(b, unix.MADV_DONTDUMP), unix.Madvise(b, unix.MADV_DONTFORK)); err != nil {
		err = fmt.Errorf("keep the HSM's answers out of core dumps and child processes: %w", err)
	}
	if err != nil {
		_ = unix.Munmap(b) // it was mapped
		return err
	}
	copy(b, (*m)[:keep])
	m.free()
	*m = b
	return nil
}

func (m *memory) free() {
	if *m != nil {
		clear(*m)
		_ = unix.Munmap(*m) // it was mapped
		*m = nil
	}
}
