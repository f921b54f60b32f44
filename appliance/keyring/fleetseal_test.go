package keyring_test

import (
	"bytes"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
)

// TestShared: what one keyring of an installation seals another one of it opens, at its
// place alone; a keyring of another installation does not, and a locked one does nothing.
func TestShared(t *testing.T) {
	token := openToken(t)
	first := keyring.New(token)
	wrapped, err := first.NewStateKey(t.Context(), "installation")
	if err != nil {
		t.Fatal(err)
	}
	second := keyring.New(token)
	if err := second.OpenStateKey(t.Context(), "installation", wrapped); err != nil {
		t.Fatal(err)
	}
	stranger := keyring.New(token)
	if _, err := stranger.NewStateKey(t.Context(), "another"); err != nil {
		t.Fatal(err)
	}
	b := appliance.Binding{Purpose: "ceremony", Fields: []string{"sign in"}}
	sealed, err := first.SealShared(b, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := second.OpenShared(b, sealed); err != nil || string(got) != "secret" {
		t.Errorf("another node: %q %v", got, err)
	}
	one, _ := first.MACShared(b)
	two, err := second.MACShared(b)
	if err != nil || !bytes.Equal(one, two) || len(one) != 32 {
		t.Errorf("MACs: %x %x %v", one, two, err)
	}
	if other, _ := stranger.MACShared(b); bytes.Equal(one, other) {
		t.Error("two installations have one MAC")
	}
	for what, err := range map[string]error{
		"another installation": errorOf(stranger.OpenShared(b, sealed)),
		"another purpose":      errorOf(second.OpenShared(appliance.Binding{Purpose: "session", Fields: b.Fields}, sealed)),
		"another place":        errorOf(second.OpenShared(appliance.Binding{Purpose: b.Purpose, Fields: []string{"prove"}}, sealed)),
		"cut":                  errorOf(second.OpenShared(b, sealed[:20])),
		"empty":                errorOf(second.OpenShared(b, nil)),
		"too long":             errorOf(second.OpenShared(b, make([]byte, 1<<20))),
		"changed":              errorOf(second.OpenShared(b, append(bytes.Clone(sealed[:len(sealed)-1]), sealed[len(sealed)-1]^1))),
		"as a row":             second.Verify(b, sealed),
	} {
		if fault.CodeOf(err) != fault.Tampered {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := first.SealShared(b, make([]byte, 70<<10)); fault.CodeOf(err) != fault.TooLarge {
		t.Errorf("a long secret: %v", err)
	}
	second.Lock()
	for what, err := range map[string]error{"open": errorOf(second.OpenShared(b, sealed)), "seal": errorOf(second.SealShared(b, nil)), "MAC": errorOf(second.MACShared(b))} {
		if fault.CodeOf(err) != fault.Locked {
			t.Errorf("%s while locked: %v", what, err)
		}
	}
}

func errorOf[T any](_ T, err error) error { return err }
