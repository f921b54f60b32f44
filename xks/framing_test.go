package xks_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/xks/xkstest"
)

// foreign encrypts as another proxy would, with the associated data that it
// makes.
func foreign(t *testing.T, key, plaintext, metadata, framed []byte) xkstest.Body {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	iv := bytes.Repeat([]byte{7}, 12)
	sealed := gcm.Seal(nil, iv, plaintext, framed)
	n := len(plaintext)
	body := xkstest.Body{"requestMetadata": xkstest.Metadata(), "encryptionAlgorithm": "AES_GCM",
		"ciphertext": sealed[:n], "authenticationTag": sealed[n:], "initializationVector": iv}
	if metadata != nil {
		body = body.With("ciphertextMetadata", metadata)
	}
	return body
}

// sample is what AWS's sample proxy authenticates, written down from its source.
func sample(aad, metadata []byte) []byte {
	out := binary.BigEndian.AppendUint16(nil, uint16(len(aad)))
	if aad != nil {
		digest := sha256.Sum256(aad)
		out = append(out, digest[:]...)
	}
	return append(append(out, byte(len(metadata))), metadata...)
}

// TestMovedFromAnotherProxy: an imported key with a framing decrypts what the
// other proxy has encrypted, in either custody, and encrypts as all keys do.
func TestMovedFromAnotherProxy(t *testing.T) {
	ctx := t.Context()
	b := xkstest.Start(t, xkstest.Options{})
	k := b.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
	material := []byte("the key of the other proxy, 32 b")
	aad, metadata := []byte("project=nile"), []byte("v0.0.1")
	plaintext := []byte("from the other proxy")
	for _, c := range []struct {
		framing       appliance.Framing
		name          string
		aad, metadata []byte
		framed        []byte
	}{
		{appliance.FramingSpec, "spec", aad, metadata, appliance.FrameAAD(aad, metadata)},
		{appliance.FramingSpec, "spec, metadata like ours", aad, []byte{1, 0, 0, 0, 1}, appliance.FrameAAD(aad, []byte{1, 0, 0, 0, 1})},
		{appliance.FramingSpec, "spec, without either", nil, nil, appliance.FrameAAD(nil, nil)},
		{appliance.FramingSHA256, "sample", aad, metadata, sample(aad, metadata)},
		{appliance.FramingSHA256, "sample, no metadata", aad, nil, sample(aad, nil)},
		{appliance.FramingSHA256, "sample, no AAD", nil, nil, sample(nil, nil)},
		{appliance.FramingSHA256, "sample, empty AAD", []byte{}, nil, sample([]byte{}, nil)},
		{appliance.FramingPlain, "plain", aad, metadata, aad},
		{appliance.FramingPlain, "plain, without either", nil, nil, nil},
	} {
		for _, custody := range []appliance.Custody{appliance.CustodyCached, appliance.CustodyHSM} {
			id := "moved-" + string(custody) + "-" + string(c.framing)
			_, err := b.Appliance.CreateKey(ctx, "demo", appliance.NewExternalKey{ID: id, Usage: appliance.Usage{Encrypt: true, Decrypt: true},
				Custody: custody, Material: slices.Clone(material), Framing: c.framing})
			if err != nil && fault.CodeOf(err) != fault.Exists {
				t.Fatal(err)
			}
			body := foreign(t, material, plaintext, c.metadata, c.framed)
			if c.aad != nil {
				body = body.With("additionalAuthenticatedData", c.aad)
			}
			decrypt := func() {
				t.Helper()
				if got := k.OK("/keys/"+id+"/decrypt", body).Bytes(t, "plaintext"); !bytes.Equal(got, plaintext) {
					t.Errorf("%s, %s: decrypted %q", c.name, custody, got)
				}
			}
			decrypt()
			k.Fails("/keys/"+id+"/decrypt", body.With("additionalAuthenticatedData", []byte("other")), 400, "InvalidCiphertextException")
			if c.framing != appliance.FramingPlain { // which does not authenticate them
				k.Fails("/keys/"+id+"/decrypt", body.With("ciphertextMetadata", []byte("v2")), 400, "InvalidCiphertextException")
			}
			own := k.OK("/keys/"+id+"/encrypt", xkstest.EncryptBody("own"))
			k.OK("/keys/"+id+"/decrypt", xkstest.DecryptBody(own))
			if _, err := b.Appliance.RotateKey(ctx, "demo", id, nil); err != nil {
				t.Fatal(err)
			}
			decrypt()
		}
	}

	// Without a framing nothing foreign is decrypted, nor is it for a new key.
	if _, err := b.Appliance.CreateKey(ctx, "demo", appliance.NewExternalKey{ID: "strict", Usage: appliance.Usage{Encrypt: true, Decrypt: true},
		Custody: appliance.CustodyCached, Material: slices.Clone(material)}); err != nil {
		t.Fatal(err)
	}
	k.Fails("/keys/strict/decrypt", foreign(t, material, plaintext, nil, nil), 400, "InvalidCiphertextException")
	for _, want := range []appliance.NewExternalKey{
		{ID: "x", Custody: appliance.CustodyCached, Framing: appliance.FramingPlain},
		{ID: "x", Custody: appliance.CustodyCached, Material: slices.Clone(material), Framing: "own"},
	} {
		_, err := b.Appliance.CreateKey(ctx, "demo", want)
		if fault.CodeOf(err) != fault.Invalid {
			t.Errorf("got %v, want %s", err, fault.Invalid)
		}
	}
}
