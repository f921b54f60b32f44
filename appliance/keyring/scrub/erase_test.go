package scrub_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"hash"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"holdfast/appliance/keyring/scrub"
)

type inner struct {
	number  uint32
	words   [4]uint64
	private []byte
}

type outer struct {
	inner
	flag   bool
	name   string
	by     *inner
	any    any
	many   []*inner
	mixed  [2]struct{ p *[8]byte }
	f      func() int
	beyond []byte
}

// TestErase zeroizes what is reachable, to the end of each slice's capacity, and keeps
// the pointers.
func TestErase(t *testing.T) {
	full := func() inner { return inner{7, [4]uint64{1, 2, 3, 4}, []byte("secret")} }
	by, boxed, listed := full(), full(), full()
	beyond := []byte("a secret")
	o := &outer{inner: full(), flag: true, name: "a name", by: &by, any: &boxed, many: []*inner{nil, &listed}, f: func() int { return 3 }, beyond: beyond[:1]}
	o.mixed[1].p = &[8]byte{1, 2}
	scrub.Erase(o)
	zero := inner{private: make([]byte, 6)}
	for what, got := range map[string]inner{"embedded": o.inner, "by pointer": by, "in an interface": boxed, "in a slice": listed} {
		if !reflect.DeepEqual(got, zero) {
			t.Errorf("%s: %+v", what, got)
		}
	}
	if o.flag || *o.mixed[1].p != [8]byte{} || !bytes.Equal(beyond, make([]byte, 8)) {
		t.Errorf("left: %v %v %q", o.flag, *o.mixed[1].p, beyond)
	}
	if o.by != &by || o.many[1] != &listed || o.name != "a name" || o.f() != 3 {
		t.Error("pointers, a string or a function were changed")
	}
	scrub.Erase(nil)
	scrub.Erase((*outer)(nil))
}

// TestEraseCryptography: of the objects that the keyring erases nothing is left of the
// key. A type of the standard library that changes shows here.
func TestEraseCryptography(t *testing.T) {
	key := bytes.Repeat([]byte{0x5A}, 32)
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	random, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	long, err := cipher.NewGCMWithNonceSize(block, 16)
	if err != nil {
		t.Fatal(err)
	}
	ready := hmac.New(sha256.New, key)
	ready.Reset()
	used := hmac.New(sha256.New, key)
	_, _ = used.Write([]byte("x")) // a hash does not fail
	for name, object := range map[string]any{"cipher": block, "GCM with random IVs": random, "GCM with long IVs": long, "ready HMAC": ready, "used HMAC": used, "hash": hash.Hash(sha256.New())} {
		scrub.Erase(object)
		if left := numbers(reflect.ValueOf(object)); left != 0 {
			t.Errorf("%s (%T): %d numbers are not zero", name, object, left)
		}
	}
}

// numbers counts those that are not zero.
func numbers(v reflect.Value) (n int) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			n = numbers(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			n += numbers(v.Field(i))
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			n += numbers(v.Index(i))
		}
	default:
		if !v.IsZero() {
			n = 1
		}
	}
	return n
}

// kept gives what it is read into, to be looked at.
type kept struct {
	io.Reader
	into [][]byte
}

func (k *kept) Read(p []byte) (int, error) {
	n, err := k.Reader.Read(p)
	k.into = append(k.into, p[:n])
	return n, err
}

// TestReadAll gives what io.ReadAll gives, and only in one buffer.
func TestReadAll(t *testing.T) {
	for _, size := range []int{0, 1, 4095, 4096, 4097, 100_000} {
		want := bytes.Repeat([]byte("s"), size)
		k := &kept{Reader: iotest.HalfReader(bytes.NewReader(want))}
		got, err := scrub.ReadAll(k)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %d, %v", size, len(got), err)
		}
		clear(got)
		for _, in := range k.into {
			if len(bytes.Trim(in, "\x00")) != 0 {
				t.Errorf("%d bytes: a buffer that it outgrew still has %d", size, len(in))
				break
			}
		}
	}
	got, err := scrub.ReadAll(io.MultiReader(strings.NewReader("half"), iotest.ErrReader(io.ErrUnexpectedEOF)))
	if err != io.ErrUnexpectedEOF || string(got) != "half" {
		t.Errorf("%q, %v", got, err)
	}
}
