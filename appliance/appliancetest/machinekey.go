package appliancetest

import (
	"crypto/rand"
	"testing"

	"holdfast/appliance/machine/machinekey"
)

// NewMachineKey gives the key of a machine, which is wiped when the test ends.
func NewMachineKey(t testing.TB) *machinekey.Key {
	t.Helper()
	secret := make([]byte, machinekey.Bytes)
	_, _ = rand.Read(secret) // never fails (crypto/rand)
	k := &machinekey.Key{}
	if err := k.Set(secret); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Wipe)
	return k
}
