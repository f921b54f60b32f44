package module

import (
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/ThalesGroup/crypto11"

	"holdfast/hsm/dialect"
	"holdfast/hsm/wire"
)

// foreign encrypts with the trials' key by crypto11, an implementation that is not ours. The process is
// for that alone.
func foreign(f [][]byte) (a answer, err error) {
	settings, err := wire.Read[wire.Settings](f[0])
	if err != nil {
		return answer{}, err
	}
	d, ok := dialect.Of(settings.Dialect)
	if !ok {
		return answer{}, fmt.Errorf("there is no dialect %q", settings.Dialect)
	}
	if d.Makes && !d.Behind {
		return answer{}, errors.New("it does not give back the IV that this token makes")
	}
	defer func() {
		if r := recover(); r != nil { // it panics where the token fails, and where it allows one session
			err = fmt.Errorf("it panics: %v", r)
		}
	}()
	ctx, err := crypto11.Configure(&crypto11.Config{Path: settings.Module, TokenLabel: settings.TokenLabel, TokenSerial: settings.TokenSerial,
		Pin: text(f[1]), MaxSessions: 2, UseGCMIVFromHSM: d.Given == 0})
	if err != nil {
		return answer{}, fmt.Errorf("it does not open the token: %w", err)
	}
	defer func() { _ = ctx.Close() }() // the process ends
	key, err := ctx.FindKey(nil, []byte(settings.MasterKeyLabel))
	if err == nil && key == nil {
		err = wire.NotFound
	}
	if err != nil {
		return answer{}, fmt.Errorf("it does not find the key: %w", err)
	}
	gcm, err := key.NewGCM()
	if err != nil {
		return answer{}, err
	}
	iv, plaintext := make([]byte, ivBytes), f[2]
	_, _ = rand.Read(iv) // never fails (crypto/rand)
	out := gcm.Seal(nil, iv, plaintext, f[3])
	n := len(plaintext)
	if len(out) < n+tagBytes {
		return answer{}, fmt.Errorf("it gives %d bytes for %d", len(out), n)
	}
	if d.Behind {
		iv = out[n+tagBytes:]
	}
	return answer{fields: [][]byte{iv, out[:n], out[n : n+tagBytes]}}, nil
}
