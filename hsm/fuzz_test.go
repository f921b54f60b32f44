package hsm_test

import (
	"bytes"
	"errors"
	"testing"

	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
)

// FuzzUnwrap unwraps what was not wrapped here, and what differs from what was:
// a fuzzing process has another token than the one that made the seeds, so that
// blobs among the seeds would be strange to it.
func FuzzUnwrap(f *testing.F) {
	cfg, _ := hsmtest.NewBehindShim(f)
	token, err := hsm.Open(ctx, cfg)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = token.Close() })
	secret, aad := []byte("a secret of a length that is none of a key"), []byte("aad")
	blob, err := token.Wrap(ctx, secret, aad)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(true, []byte{}, []byte{})  // as it was wrapped
	f.Add(true, []byte{3}, []byte{}) // the other format, and one that is none
	f.Add(true, []byte{2}, []byte{})
	f.Add(true, []byte{0, 1}, []byte{})
	f.Add(true, []byte{}, []byte{1})
	f.Add(false, []byte{}, []byte{})
	for _, n := range []int{1, 28, 29, 32, 33, 60} {
		f.Add(false, bytes.Repeat([]byte{1}, n), aad)
		f.Add(false, bytes.Repeat([]byte{2}, n), aad)
	}
	differing := func(b, difference []byte) []byte {
		b = bytes.Clone(b)
		for i := range min(len(b), len(difference)) {
			b[i] ^= difference[i]
		}
		return b
	}
	f.Fuzz(func(t *testing.T, ours bool, b, a []byte) {
		if ours {
			b, a = differing(blob, b), differing(aad, a)
		}
		got, err := token.Unwrap(ctx, b, a)
		if same := bytes.Equal(b, blob) && bytes.Equal(a, aad); same && (err != nil || !bytes.Equal(got, secret)) {
			t.Fatalf("as it was wrapped: %q, %v", got, err)
		} else if !same && !errors.Is(err, hsm.ErrDecrypt) {
			t.Fatalf("%x unwraps under %q to %q, %v", b, a, got, err)
		}
	})
}
