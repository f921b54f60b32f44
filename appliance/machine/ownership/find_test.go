package ownership_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/launch"
	"holdfast/appliance/machine/instance"
	"holdfast/appliance/machine/ownership"
	"holdfast/attest/owner"
)

// site is a machine of an image that asks for a launch file.
type site struct {
	t       *testing.T
	dir     string
	machine ownership.Machine
	// userData are those of the instance.
	userData []byte
}

func newSite(t *testing.T) *site {
	s := &site{t: t, dir: t.TempDir()}
	for _, name := range []string{"state", "launch", "modules"} {
		if err := os.Mkdir(s.path(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.write("modules/libpkcs11.so", nil)
	image, _, err := config.Parse("image", fmt.Appendf(nil, "[state]\ndir = %q\n[admin]\nsocket = %q\n[launch]\nrequired = true\ndir = %q\ndisk = %q\nmodules = %q\n",
		s.path("state"), s.path("run/admin.sock"), s.path("launch"), s.path("disk"), s.path("modules")))
	if err != nil {
		t.Fatal(err)
	}
	s.machine = ownership.Machine{Image: image, Log: slog.New(slog.DiscardHandler), Write: s.store,
		UserData: func(context.Context) *instance.UserData {
			d, err := instance.ParseUserData(s.userData)
			if err != nil {
				return nil
			}
			return d
		}}
	return s
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) store(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o600)
}

func (s *site) write(name string, content []byte) {
	s.t.Helper()
	if err := s.store(s.path(name), content); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) stored() []byte {
	s.t.Helper()
	text, err := os.ReadFile(s.path("launch/" + ownership.StoredFile))
	if err != nil {
		s.t.Fatal(err)
	}
	return text
}

// find expects the code, or the launch file of the document if it is empty.
func (s *site) find(code fault.Code, document []byte) ownership.Owned {
	s.t.Helper()
	o := s.machine.Find(s.t.Context())
	switch {
	case code != "":
		if o.Why == nil || o.Why.Code != code || o.Launch != nil || o.Config != s.machine.Image {
			s.t.Errorf("it is not refused with %s: %v %+v", code, o.Why, o.Launch)
		}
	case o.Why != nil:
		s.t.Errorf("it is refused: %v", o.Why)
	default:
		want, _, err := owner.ParseDocument(document)
		if err != nil {
			s.t.Fatal(err)
		}
		if o.Launch == nil || !bytes.Equal(o.Launch.Digest, want.Digest) || o.Config.HSM.Module != s.path("modules/libpkcs11.so") {
			s.t.Errorf("it runs by another launch file: %+v %+v", o.Launch, o.Config.HSM)
		}
	}
	return o
}

func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

var sealKey = func() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}()

func publicPEM(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// file is a launch file of an owner.
func file(t *testing.T, of ed25519.PrivateKey, token string) []byte {
	t.Helper()
	return fmt.Appendf(nil, "format = %q\n[owner]\npolicy_key = \"\"\"\n%s\"\"\"\nseal_key = \"\"\"\n%s\"\"\"\n[hsm]\nmodule = \"libpkcs11.so\"\ntoken_label = %q\n",
		launch.Format, publicPEM(t, of.Public()), publicPEM(t, &sealKey.PublicKey), token)
}

// document is a launch document that its owner has signed, and the owner before, if one is
// given.
func document(t *testing.T, text []byte, version uint64, of, before ed25519.PrivateKey) []byte {
	t.Helper()
	envelope, err := owner.Sign(text, version, of, before)
	if err != nil {
		t.Fatal(err)
	}
	d, err := owner.EncodeDocument(text, envelope, "")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestSources: the first that is there counts and is kept; without any the machine is
// locked.
func TestSources(t *testing.T) {
	one, two := document(t, file(t, key(1), "one"), 1, key(1), nil), document(t, file(t, key(1), "two"), 1, key(1), nil)
	s := newSite(t)
	s.find(fault.LaunchMissing, nil)
	s.write("disk", make([]byte, 100000))
	s.userData = []byte("#!/bin/sh")
	s.find(fault.LaunchMissing, nil)
	s.userData = two
	s.write("disk", append(bytes.Clone(one), make([]byte, 100000)...))
	if o := s.find("", one); o.Ignored == nil || o.Ignored.Code != fault.LaunchIgnored || o.Config.HSM.TokenLabel != "one" {
		t.Errorf("of disk and user data: %+v", o)
	}
	if !bytes.Equal(s.stored(), one) {
		t.Error("another is kept")
	}
	// From now on the one that is kept goes on, with or without the others.
	s.write("disk", []byte("rubbish"))
	if o := s.find("", one); o.Ignored == nil {
		t.Error("nobody is told of other user data")
	}
	s.userData = one
	if o := s.find("", one); o.Ignored != nil {
		t.Errorf("the same user data are told: %v", o.Ignored)
	}
	s.userData = nil
	s.find("", one)

	first := newSite(t)
	first.userData = two
	first.find("", two)
	first.userData = nil
	first.find("", two)
	closed := newSite(t)
	closed.userData, closed.machine.Closed = two, true
	closed.find(fault.LaunchMissing, nil)
	closed.machine.UserData = nil
	closed.find(fault.LaunchMissing, nil)
	none := newSite(t)
	none.machine.Image.Launch = config.Launch{}
	none.userData = two
	if o := none.machine.Find(t.Context()); o.Launch != nil || o.Why != nil || o.Config != none.machine.Image {
		t.Errorf("an image that asks for none: %+v", o)
	}
}

// TestStoredChanged: what lies outside of the encrypted volume is changed in each way, and
// none has an effect.
func TestStoredChanged(t *testing.T) {
	ours := file(t, key(1), "ours")
	good := document(t, ours, 5, key(1), nil)
	for name, c := range map[string]struct {
		document []byte
		code     fault.Code
	}{
		"the same":                      {good, ""},
		"a newer one":                   {document(t, file(t, key(1), "new"), 6, key(1), nil), ""},
		"the same, a newer version":     {document(t, ours, 6, key(1), nil), ""},
		"an older one":                  {document(t, file(t, key(1), "old"), 4, key(1), nil), fault.LaunchVersion},
		"the same, an older version":    {document(t, ours, 4, key(1), nil), fault.LaunchVersion},
		"another of the version":        {document(t, file(t, key(1), "other"), 5, key(1), nil), fault.LaunchVersion},
		"another owner":                 {document(t, file(t, key(2), "ours"), 6, key(2), nil), fault.LaunchOwner},
		"the owner's, signed by both":   {document(t, file(t, key(2), "ours"), 6, key(2), key(1)), ""},
		"signed by both, of no version": {document(t, file(t, key(2), "ours"), 5, key(2), key(1)), fault.LaunchVersion},
		"signed by two strangers":       {document(t, file(t, key(2), "ours"), 6, key(2), key(3)), fault.LaunchOwner},
		"the owner's file, a stranger":  {document(t, ours, 6, key(2), key(1)), fault.LaunchSignature},
		"changed":                       {bytes.Replace(good, []byte(`"launch":"H4s`), []byte(`"launch":"H5s`), 1), fault.LaunchFile},
		"another file in it":            {swapped(t, good, document(t, file(t, key(1), "evil"), 9, key(9), nil)), fault.LaunchSignature},
		"cut":                           {good[:200], fault.LaunchFile},
		"nothing":                       {nil, fault.LaunchFile},
		"large":                         {append(bytes.Repeat([]byte(" "), owner.MaxDocument), good...), fault.LaunchFile},
		"a module that is not there":    {document(t, bytes.Replace(ours, []byte("libpkcs11.so"), []byte("other.so"), 1), 6, key(1), nil), fault.LaunchFile},
		"a path":                        {document(t, bytes.Replace(ours, []byte("libpkcs11.so"), []byte("../evil.so"), 1), 6, key(1), nil), fault.LaunchFile},
		"a secret":                      {document(t, append(bytes.Clone(ours), "[notify.smtp]\npassword_file = \"/p\"\n"...), 6, key(1), nil), fault.LaunchFile},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.userData = good
			s.find("", good)
			s.write("launch/"+ownership.StoredFile, c.document)
			s.find(c.code, c.document)
			if c.code == "" { // and it is remembered: the one before is an old one now
				if !bytes.Equal(c.document, good) {
					s.write("launch/"+ownership.StoredFile, good)
					if o := s.machine.Find(t.Context()); o.Why == nil {
						t.Error("the one before is taken again")
					}
				}
				return
			}
			s.write("launch/"+ownership.StoredFile, good)
			s.find("", good) // what was refused has changed nothing
		})
	}
}

// swapped is a document with the launch file of another one.
func swapped(t *testing.T, document, other []byte) []byte {
	t.Helper()
	launchOf := func(d []byte) []byte {
		_, rest, _ := bytes.Cut(d, []byte(`"launch":"`))
		text, _, _ := bytes.Cut(rest, []byte(`"`))
		return text
	}
	return bytes.Replace(document, launchOf(document), launchOf(other), 1)
}

// TestMemory: it cannot be taken away in part, and a lost launch file comes back from its
// source.
func TestMemory(t *testing.T) {
	good := document(t, file(t, key(1), "ours"), 5, key(1), nil)
	evil := document(t, file(t, key(2), "evil"), 9, key(2), nil)
	s := newSite(t)
	s.userData = good
	s.find("", good)
	if err := os.Remove(s.path("launch/" + ownership.StoredFile)); err != nil {
		t.Fatal(err)
	}
	s.userData = evil
	s.find(fault.LaunchOwner, nil)
	s.userData = good
	s.find("", good)
	for _, text := range []string{"", "{}", "null", `{"format":"holdfast-launch-owner/v1","owner":"","version":1,"launch_sha256":""}`} {
		s.write("state/"+ownership.MemoryFile, []byte(text))
		s.find(fault.LaunchOwner, nil)
	}
}
