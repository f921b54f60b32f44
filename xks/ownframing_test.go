package xks_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/xks/xkstest"
)

// moved gives the requests by which a framing would open a ciphertext that Holdfast made,
// with other AAD or metadata than it was made with. The AAD is that of encrypting.
func moved(t *testing.T, framing appliance.Framing, encrypt func(aad []byte) xkstest.Body) []xkstest.Body {
	t.Helper()
	aad := []byte("project=nile")
	if framing == appliance.FramingSHA256 {
		other := bytes.Repeat([]byte{7}, sha256.Size)
		sum := sha256.Sum256(other)
		return []xkstest.Body{xkstest.DecryptBody(encrypt(sum[:])).With("additionalAuthenticatedData", other)}
	}
	sealed := encrypt(aad)
	framed := appliance.FrameAAD(aad, sealed.Bytes(t, "ciphertextMetadata"))
	var out []xkstest.Body
	for _, metadata := range []any{nil, []byte("other"), []byte{1, 0, 0, 0, 1}, []byte{1, 0, 0, 0, 2}} {
		out = append(out, xkstest.DecryptBody(sealed).With("additionalAuthenticatedData", framed).With("ciphertextMetadata", metadata))
	}
	return out
}

// TestOwnCiphertextsCannotBeMoved: no ciphertext that Holdfast makes opens with another AAD
// or other metadata, whatever framing the key was imported with.
func TestOwnCiphertextsCannotBeMoved(t *testing.T) {
	b := xkstest.Start(t, xkstest.Options{})
	k := b.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
	material := []byte("the key of the other proxy, 32 b")
	for _, framing := range appliance.Framings() {
		for _, custody := range []appliance.Custody{appliance.CustodyCached, appliance.CustodyHSM} {
			id := fmt.Sprintf("%s-%s", framing, custody)
			made, err := b.Appliance.CreateKey(ctx, "demo", appliance.NewExternalKey{ID: id, Usage: appliance.Usage{Encrypt: true, Decrypt: true},
				Custody: custody, Material: slices.Clone(material), Framing: framing})
			if err != nil {
				t.Fatal(err)
			}
			if made.CurrentVersion != 2 || len(made.Versions) != 2 || made.Reversible ||
				made.Versions[0].Origin != appliance.OriginImported || made.Versions[1].Origin != appliance.OriginGenerated {
				t.Errorf("%s: made %+v", id, made)
			}
			encrypt := func(aad []byte) xkstest.Body {
				return k.OK("/keys/"+id+"/encrypt", xkstest.EncryptBody("own").With("additionalAuthenticatedData", aad))
			}
			check := func(when string) {
				t.Helper()
				for i, body := range moved(t, framing, encrypt) {
					if a := k.Call("/keys/"+id+"/decrypt", body); a.Status != 400 || a.ErrorName() != "InvalidCiphertextException" {
						t.Errorf("%s, %s: move %d: %d %s", id, when, i, a.Status, a.Text)
					}
				}
			}
			check("imported")
			// Material that is imported later did not come with the framing.
			if _, err := b.Appliance.RotateKey(ctx, "demo", id, []byte("other key material of 32 bytes !")); err != nil {
				t.Fatal(err)
			}
			check("another version imported")
		}
	}
}

// TestReversibleMove: whoever keeps a move reversible is told so, until the key is rotated.
func TestReversibleMove(t *testing.T) {
	b := xkstest.Start(t, xkstest.Options{})
	k := b.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
	material := []byte("the key of the other proxy, 32 b")
	_, err := b.Appliance.CreateKey(ctx, "demo", appliance.NewExternalKey{ID: "k", Usage: appliance.Usage{Encrypt: true, Decrypt: true},
		Custody: appliance.CustodyCached, Material: slices.Clone(material), Framing: appliance.FramingPlain, Reversible: true})
	if err != nil {
		t.Fatal(err)
	}
	told := func(want bool) {
		t.Helper()
		shown, err := b.Appliance.ShowKey(ctx, "demo", "k")
		if err != nil || shown.Reversible != want {
			t.Errorf("shown as %+v, %v", shown, err)
		}
		list, err := b.Appliance.Keys(ctx, "demo", appliance.Page{Limit: 10}, "")
		if err != nil || len(list) != 1 || list[0].Reversible != want {
			t.Errorf("listed as %+v, %v", list, err)
		}
	}
	told(true)
	if !strings.Contains(b.Log.String(), "Rotate the key when you do not go back") {
		t.Error("the log does not say so")
	}
	sealed := k.OK("/keys/k/encrypt", xkstest.EncryptBody("x"))
	if got := sealed.Bytes(t, "ciphertextMetadata"); !bytes.Equal(got, []byte{1, 0, 0, 0, 1}) {
		t.Errorf("it encrypts with the version %x", got)
	}
	if _, err := b.Appliance.RotateKey(ctx, "demo", "k", nil); err != nil {
		t.Fatal(err)
	}
	told(false)
	k.OK("/keys/k/decrypt", foreign(t, material, []byte("x"), nil, nil))
	k.OK("/keys/k/decrypt", xkstest.DecryptBody(sealed))
}
