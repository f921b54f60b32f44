package hsm_test

import (
	"bytes"
	"errors"
	"testing"

	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
)

// FuzzUnwrap unwraps what was not wrapped here, but for the seed.
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
	f.Add(blob, aad)
	f.Add(blob[:len(blob)-1], aad)
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, b, a []byte) {
		got, err := token.Unwrap(ctx, b, a)
		if err == nil && (!bytes.Equal(got, secret) || !bytes.Equal(b, blob) || !bytes.Equal(a, aad)) {
			t.Fatalf("%x unwraps under %q to %q", b, a, got)
		}
		if err != nil && !errors.Is(err, hsm.ErrDecrypt) {
			t.Fatalf("%x: %v", b, err)
		}
	})
}
