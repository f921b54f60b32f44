package main

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"holdfast/appliance/config"
	"holdfast/hsm"
	"holdfast/hsm/softhsm"
)

// tokenLabel is the token where the configuration names none.
const tokenLabel = "holdfast-dev"

// preparePIN makes the PIN and the folder of the tokens the first time. The security officers of
// the tokens have the user's PIN: nobody ever needs them apart here.
func (p *platform) preparePIN() error {
	_, err := os.Stat(p.shared("token"))
	if errors.Is(err, fs.ErrNotExist) {
		err = p.makePIN()
	}
	if err != nil {
		return err
	}
	pin, err := p.pin()
	if err != nil {
		return err
	}
	clear(pin)
	if err := softhsm.Prepare(p.shared("token")); err != nil {
		return err
	}
	return softhsm.Use(p.shared("token"))
}

// prepareTokens makes the tokens that the configuration names and that are missing. If there are
// several, they have the same master key. It gives the labels of those that were made.
func (p *platform) prepareTokens(h config.HSM) (made []string, err error) {
	pin, err := p.pin()
	if err != nil {
		return nil, err
	}
	defer clear(pin)
	tokens := h.Tokens()
	for _, t := range tokens {
		if t.TokenLabel == "" {
			return nil, fmt.Errorf("[hsm]: the token with serial number %s: holdfast-dev makes tokens by their labels; name it by token_label", t.TokenSerial)
		}
		if err := softhsm.Is(t.Module); err != nil {
			return nil, fmt.Errorf("[hsm]: token %q: %w", t.TokenLabel, err)
		}
	}
	for _, t := range tokens {
		isNew, err := softhsm.Make(t.Module, t.TokenLabel, pin, pin)
		if err != nil {
			return nil, err
		}
		if isNew {
			made = append(made, t.TokenLabel)
		}
	}
	if len(tokens) == 1 {
		return made, nil // the appliance makes the master key
	}
	key, err := p.masterKey(func(fresh []byte) (bool, error) {
		return softhsm.PutKey(tokens[0].Module, tokens[0].TokenLabel, pin, masterKeyLabel(h), fresh)
	})
	if err != nil {
		return nil, fmt.Errorf("[[hsm.members]]: %w", err)
	}
	defer clear(key)
	for _, t := range tokens[1:] {
		if _, err := softhsm.PutKey(t.Module, t.TokenLabel, pin, masterKeyLabel(h), key); err != nil {
			return nil, err
		}
	}
	return made, nil
}

func masterKeyLabel(h config.HSM) string { return cmp.Or(h.MasterKeyLabel, hsm.DefaultMasterKeyLabel) }

// beginsBesideKey says whether the tokens got their master key here, and no appliance has served yet.
func (p *platform) beginsBesideKey() bool {
	_, key := os.Stat(p.shared("master-key"))
	_, served := os.Stat(p.path("demo-made"))
	return key == nil && errors.Is(served, fs.ErrNotExist)
}

// masterKey gives the master key that several tokens have. The first time it makes one, and put puts
// it into the first token, unless that has another. It stays in the folder, for members that are named
// later: no key here matters.
func (p *platform) masterKey(put func(fresh []byte) (bool, error)) ([]byte, error) {
	const size = 32
	path := p.shared("master-key")
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key = make([]byte, size)
		_, _ = rand.Read(key) // never fails (crypto/rand)
		isNew, err := put(key)
		if err == nil && !isNew {
			err = errors.New("the first token has a master key already, which cannot be copied to others; begin in another folder with --dir")
		}
		if err != nil {
			return nil, err
		}
		return key, os.WriteFile(path, key, 0o600)
	}
	if err == nil && len(key) != size {
		err = fmt.Errorf("%s has %d bytes, and a master key has %d: the state folder is broken; delete it to start over", path, len(key), size)
	}
	return key, err
}
