package seal_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"holdfast/attest/tpm"
	"holdfast/attest/tpm/seal"
)

func policyWith(references ...tpm.Reference) tpm.Policy {
	p := tpm.DefaultPolicy()
	p.References = references
	return p
}

func reference(name string, pcrs ...int) tpm.Reference {
	r := tpm.Reference{Name: name, PCRs: map[int]tpm.Hex{}}
	for _, i := range pcrs {
		r.PCRs[i] = bytes.Repeat([]byte{byte(i)}, 48)
	}
	return r
}

func signed(t testing.TB, key *ecdsa.PrivateKey) []seal.Authorization {
	t.Helper()
	all, err := seal.AuthorizeReferences(key, policyWith(reference("release 1", 4, 14), reference("release 2", 4, 11, 14)), 7)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestAuthorizeReferences(t *testing.T) {
	key := newKey(t)
	all := signed(t, key)
	if len(all) != 4 || all[2].Name != "release 2" || all[2].Bank != "sha384" || all[2].Version != 7 || len(all[2].PCRs) != 3 || all[2].Use != seal.Credential {
		t.Errorf("%+v", all)
	}
	if volume := all[3]; volume.Name != "release 2" || volume.Use != seal.StateVolume || !bytes.Equal(volume.PCRs[14], make([]byte, 48)) || !bytes.Equal(volume.PCRs[4], all[2].PCRs[4]) {
		t.Errorf("the state volume: %+v", volume)
	}
	for _, a := range all {
		if err := a.Verify(&key.PublicKey); err != nil {
			t.Error(err)
		}
	}
	if again := signed(t, key); !reflect.DeepEqual(again, all) {
		t.Error("signed again, it is not the same")
	}
	for says, p := range map[string]tpm.Policy{
		"holdfast policy reference":    policyWith(),
		`"release 2" has no PCR 14: w`: policyWith(reference("release 1", 4, 14), reference("release 2", 4, 11)),
	} {
		if _, err := seal.AuthorizeReferences(key, p, 1); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("want %s, got %v", says, err)
		}
	}
}

func TestAuthorizationsFile(t *testing.T) {
	want := signed(t, newKey(t))
	text, err := seal.EncodeAuthorizations(want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := seal.ParseAuthorizations(text); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	good := string(text)
	if !strings.Contains(good, `"4":"040404`) {
		t.Errorf("PCR values are not in hexadecimal: %s", good)
	}
	replaced := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%s is not in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	for name, bad := range map[string]string{
		"empty":             "",
		"cut":               good[:len(good)-1],
		"two":               good + good,
		"too large":         good + strings.Repeat(" ", seal.MaxAuthorizationsFile),
		"unknown name":      replaced(`{"format"`, `{"extra":1,"format"`),
		"unknown name in":   replaced(`"bank"`, `"extra":1,"bank"`),
		"name twice":        replaced(`"bank"`, `"bank":"sha256","bank"`),
		"PCR twice":         replaced(`"4":"`, `"4":"00","4":"`),
		"other format":      replaced("authorizations/v1", "authorizations/v2"),
		"none":              `{"format":"holdfast-authorizations/v1","authorizations":[]}`,
		"no name":           replaced("release 1", ""),
		"same name":         replaced("release 1", "release 2"),
		"other use":         replaced("state-volume", "everything"),
		"same use":          replaced(`"use":"state-volume",`, ""),
		"version 0":         replaced(`"version":7`, `"version":0`),
		"version below 0":   replaced(`"version":7`, `"version":-1`),
		"PCR 24":            replaced(`"14":`, `"24":`),
		"other bank":        replaced("sha384", "sha256"),
		"not hexadecimal":   replaced(`"4":"04`, `"4":"xy`),
		"cut value":         replaced(`"4":"04`, `"4":"`),
		"no signature":      replaced(`"signature":"`, `"signature":"","x":"`),
		"another signature": replaced(`"signature":"ME`, `"signature":"AA`),
	} {
		if got, err := seal.ParseAuthorizations([]byte(bad)); err == nil {
			t.Errorf("%s: read as %+v", name, got)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %q has several lines", name, err)
		}
	}
	many := make([]seal.Authorization, seal.MaxAuthorizations+1)
	for i := range many {
		many[i] = want[0]
		many[i].Name = fmt.Sprint(i)
	}
	if _, err := seal.EncodeAuthorizations(many); err == nil {
		t.Errorf("%d authorizations are encoded", len(many))
	}
	if text, err = seal.EncodeAuthorizations(many[1:]); err != nil {
		t.Fatal(err)
	}
	if got, err := seal.ParseAuthorizations(text); err != nil || len(got) != seal.MaxAuthorizations {
		t.Errorf("%d authorizations, %v", len(got), err)
	}
}

func blob(t testing.TB) *seal.Blob {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return &seal.Blob{Public: []byte{1}, Private: []byte{2}, Parent: []byte{3}, SigningKey: point,
		Made: &tpm.Creation{Data: []byte{4}, AK: []byte{5}, Attest: []byte{6}, Signature: []byte{7}, PCRs: tpm.PCRs{"sha256": {4: make(tpm.Hex, 32)}}}}
}

func TestBlobFile(t *testing.T) {
	want := blob(t)
	text, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := seal.ParseBlob(text); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	good := string(text)
	if !strings.HasPrefix(good, `{"format":"holdfast-sealed/v2","public":`) {
		t.Errorf("the file is %s", good)
	}
	for name, bad := range map[string]string{
		"empty":        "",
		"cut":          good[:len(good)-1],
		"two":          good + good,
		"too large":    good + strings.Repeat(" ", seal.MaxBlobFile),
		"unknown name": strings.Replace(good, `{"format"`, `{"extra":1,"format"`, 1),
		"name twice":   strings.Replace(good, `"parent"`, `"parent":"","parent"`, 1),
		"other format": strings.Replace(good, "sealed/v2", "sealed/v9", 1),
		"of before":    strings.Replace(good, "sealed/v2", "sealed/v1", 1),
		"no proof":     good[:strings.Index(good, `,"made"`)] + "}",
		"empty proof":  strings.Replace(good, `"ak":"BQ=="`, `"ak":""`, 1),
		"no private":   strings.Replace(good, `"private":"Ag=="`, `"private":""`, 1),
		"no key":       strings.Replace(good, `"signing_key":"`, `"signing_key":"AA`, 1),
	} {
		if got, err := seal.ParseBlob([]byte(bad)); err == nil {
			t.Errorf("%s: read as %+v", name, got)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %q has several lines", name, err)
		}
	}
	want.Public = make([]byte, 4096)
	if _, err := want.Encode(); err == nil {
		t.Error("a public area of 4096 bytes is encoded")
	}
}

// FuzzParseAuthorizations: no file makes it panic, and what it reads it can
// write, as the same.
func FuzzParseAuthorizations(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	text, err := seal.EncodeAuthorizations(signed(f, key))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"format":"holdfast-authorizations/v1","authorizations":[{}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := seal.ParseAuthorizations(text)
		if err != nil {
			return
		}
		for _, a := range got {
			_ = a.Verify(&key.PublicKey)
		}
		again, err := seal.EncodeAuthorizations(got)
		if err != nil {
			t.Fatal(err)
		}
		if same, err := seal.ParseAuthorizations(again); err != nil || !reflect.DeepEqual(same, got) {
			t.Errorf("%+v, then %+v, %v", got, same, err)
		}
	})
}

// FuzzParseBlob: as of authorizations.
func FuzzParseBlob(f *testing.F) {
	text, err := blob(f).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"format":"holdfast-sealed/v2","public":"AA==","private":"AA==","parent":"AA==","signing_key":"BA=="}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := seal.ParseBlob(text)
		if err != nil {
			return
		}
		again, err := got.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if same, err := seal.ParseBlob(again); err != nil || !reflect.DeepEqual(same, got) {
			t.Errorf("%+v, then %+v, %v", got, same, err)
		}
	})
}
