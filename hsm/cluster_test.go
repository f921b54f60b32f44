package hsm_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
)

// until waits until f gives true.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.After(time.Minute); !f(); {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal("waited too long: " + what)
		}
	}
}

func openCluster(t *testing.T, configs []hsm.Config) *hsm.Cluster {
	t.Helper()
	for i := range configs {
		configs[i].Pause = func(int) time.Duration { return 10 * time.Millisecond }
	}
	c, err := hsm.OpenCluster(t.Context(), configs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func up(t *testing.T, c *hsm.Cluster, member int) bool {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return c.Members()[member].Probe(ctx) == nil
}

// TestFailover: with one token cut off under load, what either can do goes on
// within KMS's time; and it is used again when it is back.
func TestFailover(t *testing.T) {
	configs, shim := hsmtest.NewCluster(t)
	c := openCluster(t, configs)
	if !up(t, c, 0) || !up(t, c, 1) {
		t.Fatal("not both tokens are up")
	}
	secret, aad := []byte("a keyring key"), []byte("its place")
	wrapped, err := c.Wrap(t.Context(), secret, aad)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.GenerateKey(t.Context(), "on-first"); err != nil {
		t.Fatal(err)
	}

	var stop atomic.Bool
	var slowest atomic.Int64
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for !stop.Load() {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // the race detector and a busy machine are slow
				began := time.Now()
				got, err := c.Unwrap(ctx, wrapped, aad)
				cancel()
				if err != nil || !bytes.Equal(got, secret) {
					t.Errorf("unwrap under load: %q, %v", got, err)
					return
				}
				for took := int64(time.Since(began)); ; {
					old := slowest.Load()
					if took <= old || slowest.CompareAndSwap(old, took) {
						break
					}
				}
			}
		})
	}
	shim.Cut()
	until(t, "the first token is noticed to be away", func() bool { return !up(t, c, 0) })
	if !up(t, c, 1) {
		t.Error("the second token is away as well")
	}
	// A key object is where it was made; new ones are made where there is a token.
	if _, _, _, err := c.Encrypt(t.Context(), "on-first", secret, nil); err == nil {
		t.Error("a key of the token that is away encrypts")
	}
	if err := c.GenerateKey(t.Context(), "on-second"); err != nil {
		t.Errorf("a key while one token is away: %v", err)
	}
	iv, ciphertext, tag, err := c.Encrypt(t.Context(), "on-second", secret, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.DestroyKey(t.Context(), "on-first"); err == nil || errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("destroying what the token that is away may have: %v", err)
	}
	shim.Restore()
	until(t, "the first token is back", func() bool { return up(t, c, 0) })
	stop.Store(true)
	load.Wait()
	t.Logf("the slowest operation took %s", time.Duration(slowest.Load()))

	before := shim.Calls("C_Decrypt")
	if _, err := c.Unwrap(t.Context(), wrapped, aad); err != nil || shim.Calls("C_Decrypt") == before {
		t.Errorf("the first token is not used again: %v", err)
	}
	if got, err := c.Decrypt(t.Context(), "on-second", iv, ciphertext, tag, nil); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("a key of the second token: %v", err)
	}
	for _, label := range []string{"on-first", "on-second"} {
		if err := c.DestroyKey(t.Context(), label); err != nil {
			t.Error(err)
		}
		if err := c.DestroyKey(t.Context(), label); !errors.Is(err, hsm.ErrNotFound) {
			t.Errorf("destroyed twice: %v", err)
		}
	}
}

// TestSlowMember: a token that hangs costs half of the time once, and is asked
// last after that.
func TestSlowMember(t *testing.T) {
	configs, shim := hsmtest.NewCluster(t)
	c := openCluster(t, configs)
	wrapped, err := c.Wrap(t.Context(), []byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	shim.Hang("C_Decrypt")
	defer shim.Release()
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if _, err := c.Unwrap(ctx, wrapped, nil); err != nil {
			t.Error(err)
		}
		cancel()
	}
	before := shim.Calls("C_Decrypt")
	if _, err := c.Unwrap(t.Context(), wrapped, nil); err != nil || shim.Calls("C_Decrypt") != before {
		t.Errorf("the token that hangs was asked again at once: %v", err)
	}
}

// TestLateMember: a token that is away at the start comes in later.
func TestLateMember(t *testing.T) {
	configs, shim := hsmtest.NewCluster(t)
	shim.Cut()
	c := openCluster(t, configs)
	if up(t, c, 0) || !up(t, c, 1) {
		t.Fatal("it is not only the second that is up")
	}
	if info, err := c.Members()[0].Info(t.Context()); err != nil || info.Label != configs[0].TokenLabel {
		t.Errorf("one that is away is %+v, %v", info, err)
	}
	wrapped, err := c.Wrap(t.Context(), []byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	shim.Restore()
	until(t, "the first token opens", func() bool { return up(t, c, 0) })
	if _, err := c.Unwrap(t.Context(), wrapped, nil); err != nil {
		t.Error(err)
	}
}

// TestNoMember: what is wrong with each is told.
func TestNoMember(t *testing.T) {
	configs, shim := hsmtest.NewCluster(t)
	shim.Cut()
	configs[1].TokenLabel = "nobody"
	_, err := hsm.OpenCluster(t.Context(), configs)
	if !errors.Is(err, hsm.ErrNotFound) || !bytes.Contains([]byte(err.Error()), []byte("CKR_DEVICE_REMOVED")) || bytes.Contains([]byte(err.Error()), []byte("\n")) {
		t.Errorf("got %v", err)
	}
}

// TestOtherMasterKey: a token with another master key does not serve; nor is one
// made where it is missing.
func TestOtherMasterKey(t *testing.T) {
	first, other, without := hsmtest.New(t), hsmtest.New(t), hsmtest.New(t)
	hsmtest.PutMasterKey(t, first, []byte("0123456789abcdef0123456789abcdef"))
	hsmtest.PutMasterKey(t, other, []byte("another master key, 32 bytes lon"))
	c := openCluster(t, []hsm.Config{other, first, without})
	// The last that opened is the reference: first opens before other.
	if up(t, c, 0) || !up(t, c, 1) || up(t, c, 2) {
		t.Errorf("up are %v %v %v", up(t, c, 0), up(t, c, 1), up(t, c, 2))
	}
	if err := c.Members()[0].Probe(t.Context()); !errors.Is(err, hsm.ErrOtherMasterKey) {
		t.Errorf("the one with another key: %v", err)
	}
	if err := c.Members()[2].Probe(t.Context()); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("the one without a key: %v", err)
	}
}

// TestClusterPIN: a token that refuses the PIN is asked once.
func TestClusterPIN(t *testing.T) {
	configs, shim := hsmtest.NewCluster(t)
	configs[0].PIN = []byte("not-the-pin")
	before := shim.Calls("C_Login")
	c := openCluster(t, configs)
	if err := c.Members()[0].Probe(t.Context()); !errors.Is(err, hsm.ErrPINRefused) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Wrap(t.Context(), []byte("x"), nil); err != nil {
		t.Error(err)
	}
	if n := shim.Calls("C_Login") - before; n != 1 {
		t.Errorf("the PIN was tried %d times", n)
	}
}

// TestClusterNotFound: a key is not found only if all members are there and say so.
func TestClusterNotFound(t *testing.T) {
	configs, shim := hsmtest.NewCluster(t)
	c := openCluster(t, configs)
	check := func(when string, want bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, _, _, encrypt := c.Encrypt(ctx, "absent", []byte("x"), nil)
		_, decrypt := c.Decrypt(ctx, "absent", make([]byte, 12), nil, make([]byte, 16), nil)
		for what, err := range map[string]error{"encrypt": encrypt, "decrypt": decrypt, "destroy": c.DestroyKey(ctx, "absent")} {
			if err == nil || errors.Is(err, hsm.ErrNotFound) != want {
				t.Errorf("%s, %s: %v", when, what, err)
			}
		}
	}
	check("all there", true)
	shim.Cut()
	until(t, "the first token is noticed to be away", func() bool { return !up(t, c, 0) })
	check("one away", false)
	shim.Restore()
	until(t, "the first token is back", func() bool { return up(t, c, 0) })
	check("all there again", true)
	shim.Hang("C_FindObjectsInit")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, _, _, err := c.Encrypt(ctx, "absent", []byte("x"), nil); err == nil || errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("one hangs: %v", err)
	}
	shim.Release()
}

// TestClusterMemberNeverThere: one that was not found itself may have the key.
func TestClusterMemberNeverThere(t *testing.T) {
	configs, _ := hsmtest.NewCluster(t)
	configs[0].TokenLabel = "nobody"
	c := openCluster(t, configs)
	if _, _, _, err := c.Encrypt(t.Context(), "absent", []byte("x"), nil); err == nil || errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("encrypt: %v", err)
	}
	if err := c.DestroyKey(t.Context(), "absent"); err == nil || errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("destroy: %v", err)
	}
}

// TestClusterOwnKeysStay also if only another member calls them so.
func TestClusterOwnKeysStay(t *testing.T) {
	configs, _ := hsmtest.NewCluster(t)
	configs[0].ProbeKeyLabel, configs[1].ProbeKeyLabel = "probe-a", "probe-b"
	c := openCluster(t, configs)
	for _, label := range []string{"holdfast-master", "probe-a", "probe-b"} {
		if err := c.DestroyKey(t.Context(), label); !errors.Is(err, hsm.ErrOwnKey) {
			t.Errorf("%s: %v", label, err)
		}
	}
	if !up(t, c, 0) || !up(t, c, 1) {
		t.Error("not both tokens are up")
	}
	if err := c.GenerateKey(t.Context(), "probe"); err != nil {
		t.Fatal(err)
	}
	if err := c.DestroyKey(t.Context(), "probe"); err != nil {
		t.Error(err)
	}
}
