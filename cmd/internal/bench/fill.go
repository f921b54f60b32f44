package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/keyring"
	"holdfast/appliance/sqlite"
	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
)

// chunk is how many keys go into the database in one transaction.
const chunk = 5000

// fill puts n keys into an installation that does not run, and gives the IDs
// of up to sample of them, evenly from among all. It is the appliance's own
// keyring and store that make them; through the admin socket each would cost a
// transaction.
func (in *installation) fill(ctx context.Context, n, sample int, progress func(done int)) (ids []string, err error) {
	db, err := sqlite.Open(ctx, filepath.Join(in.dir(), "holdfast.db"), sqlite.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	token, err := hsm.Open(ctx, hsm.Config{Launcher: hsmtest.Launcher(), Module: in.site.module, TokenLabel: tokenLabel, PIN: in.site.pin})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, token.Close()) }()
	ring := keyring.New(token)
	defer ring.Lock()
	keyStore, err := unlock(ctx, db, ring)
	if err != nil {
		return nil, err
	}

	// One goroutine seals keys while the other stores those before.
	ctx, cancel := context.WithCancelCause(ctx)
	chunks := make(chan []appliance.NewKey)
	var sealing sync.WaitGroup
	defer sealing.Wait()
	defer cancel(nil)
	sealing.Go(func() {
		defer close(chunks)
		if err := sealKeys(ctx, ring, keyStore, n, chunks); err != nil {
			cancel(err)
		}
	})
	step, stored := max(1, n/sample), 0
	for keys := range chunks {
		if err := db.CreateKeys(ctx, keys...); err != nil {
			return nil, err
		}
		for i, k := range keys {
			if (stored+i)%step == 0 && len(ids) < sample {
				ids = append(ids, k.Key.ID)
			}
		}
		stored += len(keys)
		progress(stored)
	}
	return ids, context.Cause(ctx)
}

// sealKeys makes n keys and sends them in chunks.
func sealKeys(ctx context.Context, ring appliance.Keyring, keyStore string, n int, chunks chan<- []appliance.NewKey) error {
	for made := 0; made < n; {
		keys := make([]appliance.NewKey, min(chunk, n-made))
		for i := range keys {
			var err error
			if keys[i], err = newKey(ctx, ring, keyStore); err != nil {
				return err
			}
		}
		select {
		case chunks <- keys:
			made += len(keys)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// unlock opens the keys that seal keys, and gives the ID of the key store.
func unlock(ctx context.Context, db appliance.Store, ring appliance.Keyring) (string, error) {
	in, err := db.Installation(ctx)
	if err != nil {
		return "", err
	}
	if err := ring.OpenStateKey(ctx, in.ID, in.WrappedStateKey); err != nil {
		return "", err
	}
	key, err := ring.ManifestKey(in.ID)
	if err != nil {
		return "", err
	}
	kept := &unraised{}
	opened, err := db.OpenState(ctx, appliance.StateOptions{Key: key, Now: time.Now, Anchoring: kept})
	if err != nil {
		return "", err
	}
	kept.head = opened.Head
	stores, err := db.KeyStores(ctx)
	if err != nil {
		return "", err
	}
	if len(stores) != 1 {
		return "", fmt.Errorf("the database has %d key stores instead of one", len(stores))
	}
	return stores[0].ID, ring.OpenKeyringKey(ctx, stores[0].ID, stores[0].WrappedKey)
}

// unraised leaves the anchor where it is: the installation's own TPM is off.
type unraised struct{ head appliance.Head }

// Next implements [appliance.Anchoring].
func (u *unraised) Next() (string, uint64) { return u.head.Anchor, u.head.Count }

// Committed implements [appliance.Anchoring].
func (u *unraised) Committed(uint64) {}

// newKey makes a key with cached custody and a random ID, as a console does.
func newKey(ctx context.Context, ring appliance.Keyring, keyStore string) (appliance.NewKey, error) {
	random := make([]byte, 16+appliance.KeyBytes)
	_, _ = rand.Read(random) // never fails (crypto/rand)
	now := time.Now().UTC().Truncate(time.Millisecond)
	k := &appliance.ExternalKey{KeyStore: keyStore, ID: fmt.Sprintf("%x-%x-%x-%x-%x", random[:4], random[4:6], random[6:8], random[8:10], random[10:16]),
		Usage: appliance.Usage{Encrypt: true, Decrypt: true}, Custody: appliance.CustodyCached, State: appliance.KeyEnabled, CurrentVersion: 1, CreatedAt: now}
	v := &appliance.KeyVersion{KeyStore: keyStore, KeyID: k.ID, Version: 1, Custody: k.Custody, Origin: appliance.OriginImported, CreatedAt: now}
	if err := ring.Import(ctx, v, "", random[16:]); err != nil {
		return appliance.NewKey{}, err
	}
	var err error
	k.Seal, err = ring.Seal(k.Binding(), nil)
	return appliance.NewKey{Key: k, Version: v}, err
}
