package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// testMixedConcurrent has changes that succeed and changes that are refused
// half-way at the same time, so that they meet in one group.
func testMixedConcurrent(t *testing.T, s Engine) {
	ctx := t.Context()
	ks := KeyStore(1)
	Must(t, s.CreateKeyStore(ctx, ks))
	Must(t, s.CreateKeys(ctx, NewKey(ks, "taken")))
	const callers, each = 16, 8
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for j := range each {
				mine, half := fmt.Sprintf("mine-%d-%d", i, j), fmt.Sprintf("half-%d-%d", i, j)
				if err := s.CreateKeys(ctx, NewKey(ks, mine)); err != nil {
					t.Error(err)
				}
				if err := s.CreateKeys(ctx, NewKey(ks, half), NewKey(ks, "taken")); fault.CodeOf(err) != fault.Exists {
					t.Errorf("error is %v; want %s", err, fault.Exists)
				}
				if _, err := s.Key(ctx, ks.ID, half); fault.CodeOf(err) != fault.NotFound {
					t.Errorf("reading a refused key: %v", err)
				}
				if _, err := s.ReserveEncryptions(ctx, ks.ID, mine, 1, 4); err != nil {
					t.Error(err)
				}
				k, err := s.Key(ctx, ks.ID, mine)
				if err != nil {
					t.Error(err)
				} else if k.Versions[0].Encryptions != 4 {
					t.Errorf("%s has %d encryptions; want 4", mine, k.Versions[0].Encryptions)
				}
			}
		})
	}
	wg.Wait()
	Equal(t, Got(s.CountKeys(ctx, ks.ID))(t), callers*each+1)
	Equal(t, len(Got(s.Keys(ctx, ks.ID, appliance.Page{Limit: 1000}))(t)), callers*each+1)
}

// testSnapshot reads a key while it is rotated: the row and the versions must
// fit together every time.
func testSnapshot(t *testing.T, s Engine) {
	ctx := t.Context()
	ks := KeyStore(1)
	Must(t, s.CreateKeyStore(ctx, ks))
	Must(t, s.CreateKeys(ctx, NewKey(ks, "a")))
	rotated := make(chan struct{})
	go func() {
		defer close(rotated)
		k := NewKey(ks, "a").Key
		for n := uint32(2); n < 60; n++ {
			k.CurrentVersion = n
			if err := s.AddKeyVersion(ctx, k, Version(ks, "a", n), k.Seal, ""); err != nil {
				t.Error(err)
			}
		}
	}()
	for {
		k := Got(s.Key(ctx, ks.ID, "a"))(t)
		if int(k.CurrentVersion) != len(k.Versions) {
			t.Fatalf("current version %d with %d versions", k.CurrentVersion, len(k.Versions))
		}
		select {
		case <-rotated:
			return
		default:
		}
	}
}

func testContext(t *testing.T, s Engine) {
	ks := KeyStore(1)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	Wants(t, s.CreateKeyStore(ended, ks), fault.Timeout, "nothing changed")
	_, err := s.KeyStores(ended)
	Wants(t, err, fault.Timeout, "in time")
	_, err = s.Key(ended, ks.ID, "a")
	Wants(t, err, fault.Timeout, "in time")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the cause of %v is not the context's", err)
	}
	Must(t, s.CreateKeyStore(t.Context(), ks))

	// Contexts that end while many write: an error means that nothing changed,
	// nil means that it did.
	const callers = 32
	results := make([]error, callers)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			results[i] = s.CreateKeys(ctx, NewKey(ks, fmt.Sprintf("k%d", i)))
			if i == callers/4 {
				cancel()
			}
		})
	}
	wg.Wait()
	for i, err := range results {
		_, readErr := s.Key(t.Context(), ks.ID, fmt.Sprintf("k%d", i))
		switch {
		case err == nil:
			Must(t, readErr)
		default:
			Wants(t, err, fault.Timeout, "nothing changed")
			Wants(t, readErr, fault.NotFound, "no key")
		}
	}
}

func testClose(t *testing.T, s Engine) {
	Must(t, s.CreateKeyStore(t.Context(), KeyStore(1)))
	Must(t, s.Close())
	Wants(t, s.CreateKeyStore(t.Context(), KeyStore(2)), fault.Internal, "closed")
	_, err := s.KeyStores(t.Context())
	Wants(t, err, fault.Internal, "closed")
	Must(t, s.Close())
}

func testCloseInUse(t *testing.T, s Engine) {
	ctx := t.Context()
	ks := KeyStore(1)
	Must(t, s.CreateKeyStore(ctx, ks))
	var began, wg sync.WaitGroup
	for i := range 8 {
		began.Add(1)
		wg.Go(func() {
			once := sync.OnceFunc(began.Done)
			for j := 0; ; j++ {
				keyID := fmt.Sprintf("k-%d-%d", i, j)
				err := s.CreateKeys(ctx, NewKey(ks, keyID))
				once()
				if err != nil {
					if fault.CodeOf(err) != fault.Internal || !strings.Contains(err.Error(), "closed") {
						t.Error(err)
					}
					return
				}
				if k, err := s.Key(ctx, ks.ID, keyID); err == nil && !bytes.Equal(k.Seal, []byte("seal of "+keyID)) {
					t.Errorf("%s has seal %q", keyID, k.Seal)
				} else if err != nil && !strings.Contains(err.Error(), "closed") {
					t.Error(err)
				}
			}
		})
	}
	began.Wait()
	Must(t, s.Close())
	wg.Wait()
}
