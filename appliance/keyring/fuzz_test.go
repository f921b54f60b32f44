package keyring_test

import (
	"bytes"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// change applies bytes from outside to a blob that is valid here: a fuzzing
// process has other keys than the one that made the seeds, so that whole blobs
// among the seeds would be strange to it.
func change(blob, difference []byte, cut uint16) []byte {
	out := bytes.Clone(blob)
	for i := range min(len(out), len(difference)) {
		out[i] ^= difference[i]
	}
	if n := int(cut) % (len(out) + 2); n <= len(out) {
		return out[:len(out)-n]
	}
	return append(out, difference...)
}

// FuzzSealed opens blobs that were changed or are foreign, as rows of each
// kind. Only what is as it was sealed opens.
func FuzzSealed(f *testing.F) {
	token := openToken(f)
	k, w := newRing(f, token)
	row := binding(storeA, "one", "two")
	seal, err := k.Seal(row, nil)
	if err != nil {
		f.Fatal(err)
	}
	v := version(1, appliance.CustodyCached)
	if err := k.Generate(ctx, v, ""); err != nil {
		f.Fatal(err)
	}
	h := version(1, appliance.CustodyHSM)
	if err := k.Generate(ctx, h, k.NewTokenObject()); err != nil {
		f.Fatal(err)
	}
	c := &appliance.Credential{AccessKeyID: "A", KeyStore: storeA, Active: true}
	if c.Secret, err = k.Seal(c.Binding(), []byte("secret")); err != nil {
		f.Fatal(err)
	}
	rows := []struct {
		name string
		blob []byte
		open func(blob []byte) error
	}{
		{"seal", seal, func(blob []byte) error { return k.Verify(row, blob) }},
		{"cached key", v.Material, func(blob []byte) error {
			v := *v
			v.Material = blob
			u, err := k.Unlock(&v)
			if err == nil {
				u.Wipe()
			}
			return err
		}},
		{"key in the token", h.Material, func(blob []byte) error {
			h := *h
			h.Material = blob
			_, err := k.TokenObject(&h)
			return err
		}},
		{"credential", c.Secret, func(blob []byte) error {
			c := *c
			c.Secret = blob
			u, err := k.UnlockCredential(&c)
			if err == nil {
				u.Wipe()
			}
			return err
		}},
		{"moved", seal, func(blob []byte) error { _, err := k.Reseal(row, row, blob); return err }},
		{"keyring key", w.a, func(blob []byte) error { return k.OpenKeyringKey(ctx, storeA, blob) }},
	}
	f.Add(uint8(0), false, []byte(nil), uint16(0)) // all as they were
	for i := range rows {
		f.Add(uint8(i), true, []byte{0}, uint16(0))
		f.Add(uint8(i), true, []byte{3}, uint16(0)) // another format
		f.Add(uint8(i), true, append(make([]byte, 13), 1), uint16(1))
		f.Add(uint8(i), false, []byte{1}, uint16(0))
		f.Add(uint8(i), false, bytes.Repeat([]byte{1}, 29), uint16(0))
		f.Add(uint8(i), false, bytes.Repeat([]byte{1}, 5000), uint16(0))
	}
	f.Fuzz(func(t *testing.T, n uint8, ours bool, b []byte, cut uint16) {
		r := rows[int(n)%len(rows)]
		if ours {
			b = change(r.blob, b, cut)
		}
		err := r.open(b)
		if bytes.Equal(b, r.blob) && err != nil {
			t.Fatalf("%s: as it was sealed: %v", r.name, err)
		}
		if !bytes.Equal(b, r.blob) && fault.CodeOf(err) != fault.Tampered {
			t.Fatalf("%s: %x in the place of %x: got %v, want %s", r.name, b, r.blob, err, fault.Tampered)
		}
	})
}
