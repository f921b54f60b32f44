package seal_test

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"holdfast/appliance/fault"
	"holdfast/attest/tpm/seal"
)

var (
	thisVolume    = bytes.Repeat([]byte{1}, seal.VolumeKeyBytes)
	anotherVolume = bytes.Repeat([]byte{2}, seal.VolumeKeyBytes)
)

// TestBound: the secret opens with the TPM and the volume's key together, and by neither
// alone; what was sealed beside another volume is of no use.
func TestBound(t *testing.T) {
	m, key := newMachine(t), newKey(t)
	m.boot("kernel 1", "holdfast 1")
	a := authorize(t, key, m.Device, "release 1", "sha256", 1)
	longest := bytes.Repeat([]byte("x"), seal.MaxSecret)
	for _, secret := range [][]byte{[]byte(secret), longest} {
		b, err := seal.SealBound(m, seal.Signers{Publisher: &key.PublicKey}, seal.Credential, secret, thisVolume)
		if err != nil {
			t.Fatal(err)
		}
		text, err := b.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := seal.ParseBound(text)
		if err != nil || !reflect.DeepEqual(again, b) {
			t.Fatalf("read again it is %+v, %v", again, err)
		}
		got, name, err := seal.UnsealBound(m, again, thisVolume, seal.Signed{Authorizations: []seal.Authorization{a}})
		if err != nil || !bytes.Equal(got, secret) || name != "release 1" {
			t.Errorf("got %q, %q, %v", got, name, err)
		}
		if part, err := seal.AskTPM(m, b.Object.(*seal.Blob), &a); err != nil || bytes.Contains(part, secret) || bytes.Contains(text, secret) {
			t.Errorf("the TPM alone has the secret: %q, %v", part, err)
		}
	}

	b, err := seal.SealBound(m, seal.Signers{Publisher: &key.PublicKey}, seal.Credential, []byte(secret), thisVolume)
	if err != nil {
		t.Fatal(err)
	}
	planted, err := seal.SealBound(m, seal.Signers{Publisher: &key.PublicKey}, seal.Credential, []byte("the attacker's PIN"), anotherVolume)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		object seal.Object
		sealed []byte
		volume []byte
		code   fault.Code
	}{
		"another volume":              {b.Object, b.Sealed, anotherVolume, fault.SealVolume},
		"a blob of another volume":    {planted.Object, planted.Sealed, thisVolume, fault.SealVolume},
		"the TPM's part of another":   {planted.Object, b.Sealed, thisVolume, fault.SealVolume},
		"the ciphertext of another":   {b.Object, planted.Sealed, thisVolume, fault.SealVolume},
		"a changed ciphertext":        {b.Object, append([]byte{b.Sealed[0] ^ 1}, b.Sealed[1:]...), thisVolume, fault.SealVolume},
		"a volume's key that is none": {b.Object, b.Sealed, nil, ""},
	} {
		got, _, err := seal.UnsealBound(m, &seal.Bound{Object: tt.object, Sealed: tt.sealed}, tt.volume, seal.Signed{Authorizations: []seal.Authorization{a}})
		if f, ok := errors.AsType[*fault.Fault](err); err == nil || got != nil || (tt.code != "" && (!ok || f.Code != tt.code)) {
			t.Errorf("%s: got %q, %v; want %s", name, got, err, tt.code)
		}
	}
	for _, n := range []int{0, seal.MaxSecret + 1} {
		if _, err := seal.SealBound(m, seal.Signers{Publisher: &key.PublicKey}, seal.Credential, make([]byte, n), thisVolume); err == nil {
			t.Errorf("a secret of %d bytes is sealed", n)
		}
	}
	if _, err := seal.SealBound(m, seal.Signers{Publisher: &key.PublicKey}, seal.Credential, []byte(secret), thisVolume[1:]); err == nil {
		t.Error("a short key is taken")
	}
	if _, err := m.Cap(); err != nil {
		t.Fatal(err)
	}
	if got, _, err := seal.UnsealBound(m, b, thisVolume, seal.Signed{Authorizations: []seal.Authorization{a}}); got != nil || fault.CodeOf(err) != fault.SealPCRs {
		t.Errorf("capped, it gives %q, %v", got, err)
	}
}

// TestBoundFile: a file of one kind is not read as the other.
func TestBoundFile(t *testing.T) {
	plain, err := blob(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	b := &seal.Bound{Object: blob(t), Sealed: make([]byte, 12+1+16)}
	text, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.ParseBound(plain); !errors.Is(err, seal.ErrUnbound) {
		t.Errorf("sealed without a volume: %v", err)
	}
	if _, err := seal.ParseBound(bytes.Replace(plain, []byte("sealed/v2"), []byte("sealed/v1"), 1)); !errors.Is(err, seal.ErrUnbound) {
		t.Errorf("of an earlier release: %v", err)
	}
	if _, err := seal.ParseBlob(text); !errors.Is(err, seal.ErrBound) {
		t.Errorf("sealed to a volume: %v", err)
	}
	good := string(text)
	for name, bad := range map[string]string{
		"empty":        "",
		"cut":          good[:len(good)-1],
		"two":          good + good,
		"unknown name": strings.Replace(good, `{"format"`, `{"extra":1,"format"`, 1),
		"other format": strings.Replace(good, "bound/v1", "bound/v2", 1),
		"no object":    `{"format":"holdfast-sealed-bound/v1","sealed":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`,
		"no secret":    good[:strings.LastIndex(good, `,"sealed"`)] + "}",
		"too large":    good + strings.Repeat(" ", seal.MaxBlobFile),
	} {
		if got, err := seal.ParseBound([]byte(bad)); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: read as %+v, %v", name, got, err)
		}
	}
}

func FuzzParseBound(f *testing.F) {
	text, err := (&seal.Bound{Object: blob(f), Sealed: make([]byte, 12+1+16)}).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := seal.ParseBound(text)
		if err != nil {
			return
		}
		again, err := b.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if b2, err := seal.ParseBound(again); err != nil || !reflect.DeepEqual(b, b2) {
			t.Errorf("%q: %v", again, err)
		}
	})
}
