package keyringtest

import (
	"crypto/aes"
	"reflect"
	"testing"

	"holdfast/appliance/keyring/scrub"
)

// roundKeyBytes is the length of a round key (FIPS 197).
const roundKeyBytes = 16

// AESKey gives the patterns of an AES-256 key: its round keys, of which the first
// two are the key itself. From any two that follow each other the key follows.
func AESKey(t testing.TB, key []byte) (roundKeys []Secret) {
	t.Helper()
	const rounds = 15
	scrub.Do(func() {
		block, err := aes.NewCipher(key)
		if err != nil {
			t.Error(err)
			return
		}
		defer scrub.Erase(block)
		// The schedule of package aes, as it lies in memory.
		schedule := reflect.ValueOf(block).Elem().FieldByName("enc")
		if schedule.Kind() != reflect.Array || schedule.Type().Elem().Kind() != reflect.Uint32 || schedule.Len() != rounds*roundKeyBytes/4 {
			t.Errorf("%T has no key schedule of the form that this looks for", block)
			return
		}
		for round := range rounds {
			hidden := make(Secret, roundKeyBytes)
			for i := range hidden {
				word := uint32(schedule.Index(round*4 + i/4).Uint())
				hidden[i] = byte(word>>(8*(i%4))) ^ mask // little endian, as amd64 and arm64 are
			}
			roundKeys = append(roundKeys, hidden)
		}
	})
	return roundKeys
}
