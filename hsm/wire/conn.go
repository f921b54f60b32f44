package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
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
	raw     syscall.RawConn // of the stream; nil if it has none
	in, out memory
	n       int      // bytes in in
	frame   int      // of them those of the message that was received
	fields  [][]byte // of that message
	put     []byte   // the frame in out that [Conn.Next] sends
	rest    []byte   // of a frame in out that the socket did not take yet

	deadline time.Time
}

// NewConn makes a connection of a stream. To close it is the caller's part. The error is of
// the memory that could not be locked, or the stream's.
func NewConn(s Stream) (*Conn, error) {
	c := &Conn{stream: s}
	if socket, ok := s.(syscall.Conn); ok {
		var err error
		if c.raw, err = socket.SyscallConn(); err != nil {
			return nil, err
		}
	}
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
	c.n, c.frame, c.fields, c.put, c.rest = 0, 0, nil, nil, nil
	return err
}

// SetDeadline sets until when sending and receiving may take. A frame of which a part was
// received is received further by the next [Conn.Receive].
func (c *Conn) SetDeadline(t time.Time) error {
	c.deadline = t
	return c.stream.SetDeadline(t)
}

// Deadline gives what [Conn.SetDeadline] has set.
func (c *Conn) Deadline() time.Time { return c.deadline }

// The sizes of a frame's parts, in bytes.
const (
	lengthBytes = 4
	headBytes   = lengthBytes + 1 + 4 // and kind, and milliseconds
)

// Send sends a message, and clears the copy of it.
func (c *Conn) Send(m Message) error {
	b, err := c.pack(m)
	if err != nil {
		return err
	}
	_, err = c.stream.Write(b)
	clear(b)
	return err
}

// pack gives the frame of a message.
func (c *Conn) pack(m Message) ([]byte, error) {
	n := headBytes
	for _, f := range m.Fields {
		n += lengthBytes + len(f)
	}
	if n > MaxFrame || len(m.Fields) > maxFields {
		return nil, fmt.Errorf("a message of %d bytes in %d fields; at most %d and %d are sent", n, len(m.Fields), MaxFrame, maxFields)
	}
	if err := c.out.grow(n, 0); err != nil {
		return nil, err
	}
	b := binary.BigEndian.AppendUint32(c.out[:0], uint32(n-lengthBytes))
	b = append(b, m.Kind)
	b = binary.BigEndian.AppendUint32(b, uint32(min(m.Within.Milliseconds(), 1<<31)))
	for _, f := range m.Fields {
		b = binary.BigEndian.AppendUint32(b, uint32(len(f)))
		b = append(b, f...)
	}
	return b, nil
}

// ErrFrame: what came is no frame of this protocol, or no answer to what was asked.
var ErrFrame = errors.New("the other side does not keep to the protocol")

// errUnsent: the deadline was over before anything was sent.
var errUnsent = fmt.Errorf("nothing was sent: %w", os.ErrDeadlineExceeded)

// Receive gives the next message. After an error of the deadline it goes on with the same
// frame, and with one of which a part was sent; after another, the connection is of no use.
func (c *Conn) Receive() (Message, error) {
	for len(c.rest) > 0 {
		n, err := c.stream.Write(c.rest)
		clear(c.rest[:n])
		if c.rest = c.rest[n:]; err != nil {
			return Message{}, err
		}
	}
	for {
		need := headBytes
		if c.n >= need {
			length := int(binary.BigEndian.Uint32(c.in))
			if length < headBytes-lengthBytes || length > MaxFrame-lengthBytes {
				return Message{}, ErrFrame
			}
			need = lengthBytes + length
		}
		if c.n >= need {
			c.frame = need
			return c.parse(c.in[lengthBytes:need])
		}
		if err := c.in.grow(need, c.n); err != nil {
			return Message{}, err
		}
		n, err := c.stream.Read(c.in[c.n:])
		c.n += n
		if err != nil && n == 0 {
			return Message{}, err
		}
	}
}

// exchange sends a frame, clears it, and gives the next message. The other side speaks when
// it is spoken to. After an error of the deadline [Conn.Receive] goes on, unless it is errUnsent.
func (c *Conn) exchange(b []byte) (m Message, err error) {
	if c.rest, err = c.sendAndWait(b); err != nil {
		clear(b)
		return Message{}, err
	}
	return c.Receive()
}

// sendAndWait sends as much of b as the socket takes at once, and gives what is left. If that is nothing, b is
// cleared, and a part of what comes next is received. To look for that first would be a system call in vain:
// it cannot be there yet.
func (c *Conn) sendAndWait(b []byte) (left []byte, err error) {
	if c.raw == nil {
		return b, nil
	}
	sent := false
	var failed error
	err = c.raw.Read(func(fd uintptr) bool { // forgets what was readable, calls, and calls again when something is
		var n int
		if !sent {
			sent = true
			n, failed = retried(unix.Write, fd, b)
			clear(b[:n])
			left = b[n:]
			return failed != nil || len(left) > 0
		}
		n, failed = retried(unix.Read, fd, c.in[c.n:])
		c.n += n
		if n == 0 && failed == nil {
			failed = io.EOF
		}
		return !errors.Is(failed, unix.EAGAIN)
	})
	switch {
	case err != nil && !sent && errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errUnsent
	case err != nil:
		return nil, err
	case errors.Is(failed, unix.EAGAIN): // of what is left
		return left, nil
	}
	return left, failed
}

// retried makes a system call until no signal interrupts it.
func retried(call func(int, []byte) (int, error), fd uintptr, b []byte) (int, error) {
	for {
		n, err := call(int(fd), b)
		if !errors.Is(err, unix.EINTR) {
			return max(n, 0), err // it is -1 with an error
		}
	}
}

func (c *Conn) parse(b []byte) (Message, error) {
	m := Message{Kind: b[0], Within: time.Duration(binary.BigEndian.Uint32(b[1:])) * time.Millisecond}
	c.fields = c.fields[:0]
	for b = b[headBytes-lengthBytes:]; len(b) > 0; {
		if len(b) < lengthBytes || len(c.fields) == maxFields {
			return Message{}, ErrFrame
		}
		n := binary.BigEndian.Uint32(b)
		if uint64(n) > uint64(len(b)-lengthBytes) {
			return Message{}, ErrFrame
		}
		end := lengthBytes + int(n)
		c.fields = append(c.fields, b[lengthBytes:end:end])
		b = b[end:]
	}
	m.Fields = c.fields
	return m, nil
}

// Done clears what was received.
func (c *Conn) Done() {
	left := copy(c.in, c.in[c.frame:c.n]) // of the next message, where a list comes in several
	clear(c.in[left:c.n])
	c.n, c.frame = left, 0
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
