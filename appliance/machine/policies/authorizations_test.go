package policies_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"holdfast/appliance/machine/policies"
	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
)

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// write writes a file of one authorization; by says whose it is.
func write(t *testing.T, path, name string, key *ecdsa.PrivateKey, by seal.Signer) {
	t.Helper()
	a, err := seal.Authorize(key, seal.Authorization{Name: name, By: by, Bank: "sha256", Version: 1,
		PCRs: map[int]tpm.Hex{4: bytes.Repeat([]byte{1}, 32), seal.LaunchPCR: bytes.Repeat([]byte{2}, 32)}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := seal.EncodeAuthorizations([]seal.Authorization{*a})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestAuthorizationsAddUp: what came in adds to the image's if the key has signed each of it for
// the publisher, and never takes anything away; without the image's it is enough.
func TestAuthorizationsAddUp(t *testing.T) {
	key, other := newKey(t), newKey(t)
	for name, c := range map[string]struct {
		image bool
		came  func(path string)
		want  []string // nil for an error
	}{
		"none came in":         {true, func(string) {}, []string{"image"}},
		"one came in":          {true, func(path string) { write(t, path, "came", key, seal.Publisher) }, []string{"image", "came"}},
		"a stranger's":         {true, func(path string) { write(t, path, "came", other, seal.Publisher) }, []string{"image"}},
		"an owner's":           {true, func(path string) { write(t, path, "came", key, seal.Owner) }, []string{"image"}},
		"damaged":              {true, func(path string) { _ = os.WriteFile(path, []byte("{"), 0o600) }, []string{"image"}},
		"no image's":           {false, func(path string) { write(t, path, "came", key, seal.Publisher) }, []string{"came"}},
		"neither":              {false, func(string) {}, nil},
		"no image's, damaged":  {false, func(path string) { _ = os.WriteFile(path, []byte("{"), 0o600) }, nil},
		"no image's, stranger": {false, func(path string) { write(t, path, "came", other, seal.Publisher) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			image := filepath.Join(dir, "image.json")
			if c.image {
				write(t, image, "image", key, seal.Publisher)
			}
			c.came(filepath.Join(dir, policies.AuthorizationsFile))
			all, err := policies.Authorizations(image, dir, &key.PublicKey)
			var names []string
			for _, a := range all {
				names = append(names, a.Name)
			}
			if !slices.Equal(names, c.want) || (err == nil) != (c.want != nil) {
				t.Errorf("got %q, %v", names, err)
			}
			if all, err := policies.Authorizations(image, "", &key.PublicKey); (err == nil) != c.image || len(all) > 1 {
				t.Errorf("without a folder: %d, %v", len(all), err)
			}
		})
	}
}
