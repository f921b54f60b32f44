package storetest

import (
	"fmt"
	"time"

	"holdfast/appliance"
)

// At gives a time of the precision that is stored.
func At(minute int) time.Time {
	return time.Date(2026, 5, 4, 3, minute, 1, 234e6, time.UTC)
}

// ID gives an ID of 32 digits.
func ID(n int) string { return fmt.Sprintf("%032x", n) }

// KeyStore gives a key store, another one for each number.
func KeyStore(n int) *appliance.KeyStore {
	return &appliance.KeyStore{ID: ID(n), Name: fmt.Sprintf("store-%d", n), URIPathPrefix: fmt.Sprintf("/p%d", n),
		RequestsPerSecond: n, CreatedAt: At(n), WrappedKey: []byte{1, byte(n)}, Seal: []byte{2, byte(n)}}
}

// NewKey gives a key of the key store with its first version.
func NewKey(ks *appliance.KeyStore, keyID string) appliance.NewKey {
	return appliance.NewKey{
		Key: &appliance.ExternalKey{KeyStore: ks.ID, ID: keyID, Usage: appliance.Usage{Encrypt: true, Decrypt: true},
			Custody: appliance.CustodyCached, State: appliance.KeyEnabled, CurrentVersion: 1, CreatedAt: At(1), Seal: []byte("seal of " + keyID)},
		Version: Version(ks, keyID, 1),
	}
}

// Version gives a version of a key.
func Version(ks *appliance.KeyStore, keyID string, n uint32) *appliance.KeyVersion {
	return &appliance.KeyVersion{KeyStore: ks.ID, KeyID: keyID, Version: n, Custody: appliance.CustodyCached,
		Origin: appliance.OriginGenerated, CreatedAt: At(int(n)), Material: fmt.Appendf(nil, "material %d of %s", n, keyID)}
}

// Credential gives a credential, another one for each number.
func Credential(ks *appliance.KeyStore, n int) *appliance.Credential {
	return &appliance.Credential{AccessKeyID: fmt.Sprintf("AAAAAAAAAAAAAAAAAA%02d", n), KeyStore: ks.ID, Active: true,
		CreatedAt: At(n), Secret: []byte{3, byte(n)}}
}

// Grant gives a grant on a key, or on the whole key store without one.
func Grant(ks *appliance.KeyStore, n int, keyID string) *appliance.Grant {
	return &appliance.Grant{ID: ID(n), KeyStore: ks.ID, KeyID: keyID, Principal: "arn:aws:iam::1:role/r", CreatedAt: At(n),
		Operations: []appliance.Operation{appliance.OpEncrypt, appliance.OpGetAttributes}, Seal: []byte{4, byte(n)}}
}

// TokenObject gives a note of a key object in the token.
func TokenObject(label string) *appliance.TokenObject {
	return &appliance.TokenObject{Label: label, KeyStore: ID(1), KeyID: "of " + label, Version: 7, Seal: []byte("seal of " + label)}
}

func tokenObjects(labels ...string) (list []*appliance.TokenObject) {
	for _, label := range labels {
		list = append(list, TokenObject(label))
	}
	return list
}

func newUses() map[string]time.Time {
	return map[string]time.Time{Credential(store, 1).AccessKeyID: At(11)}
}
