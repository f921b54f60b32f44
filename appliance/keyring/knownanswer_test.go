package keyring_test

import (
	"context"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
	"holdfast/hsm"
)

// confusedToken says of everything that it does not authenticate.
type confusedToken struct {
	appliancetest.Token
	confused bool
}

func (t *confusedToken) Unwrap(ctx context.Context, blob, aad []byte) ([]byte, error) {
	if t.confused {
		return nil, hsm.ErrDecrypt
	}
	return t.Token.Unwrap(ctx, blob, aad)
}

// TestDecryptErrorOfConfusedHSM: that an HSM does not unwrap something is believed only if
// it unwraps something else.
func TestDecryptErrorOfConfusedHSM(t *testing.T) {
	b := appliancetest.Start(t, appliancetest.Options{})
	token := &confusedToken{Token: b.Token}
	ring := keyring.New(token)
	state, err := ring.NewStateKey(t.Context(), "installation")
	if err != nil {
		t.Fatal(err)
	}
	store, err := ring.NewKeyringKey(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	binding := appliance.Binding{Purpose: "test"}
	secret, err := ring.Wrap(t.Context(), binding, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	attempts := map[string]func(change func([]byte) []byte) error{
		"state key": func(change func([]byte) []byte) error {
			return ring.OpenStateKey(t.Context(), "installation", change(state))
		},
		"keyring key": func(change func([]byte) []byte) error { return ring.OpenKeyringKey(t.Context(), "a", change(store)) },
		"a secret": func(change func([]byte) []byte) error {
			_, err := ring.Unwrap(t.Context(), binding, change(secret))
			return err
		},
	}
	same := func(b []byte) []byte { return b }
	other := func(b []byte) []byte {
		out := append([]byte(nil), b...)
		out[len(out)-1] ^= 1
		return out
	}
	for name, attempt := range attempts {
		for _, tt := range []struct {
			confused bool
			change   func([]byte) []byte
			want     fault.Code
		}{{false, same, ""}, {false, other, fault.Tampered}, {true, same, fault.Internal}, {true, other, fault.Internal}} {
			token.confused = tt.confused
			if err := attempt(tt.change); fault.CodeOf(err) != tt.want {
				t.Errorf("%s, HSM confused %t: got %v, want %q", name, tt.confused, err, tt.want)
			}
		}
	}
}
