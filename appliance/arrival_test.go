package appliance_test

import (
	"context"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
)

// running has a node do the work that comes with time.
func running(t *testing.T, b *appliancetest.Bed) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		b.Appliance.Run(ctx)
		close(ended)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
}

// reached waits until b has all changes of a in effect.
func reached(t *testing.T, a, b *appliancetest.Bed) {
	t.Helper()
	appliancetest.Eventually(t, "the other node has the change", func() bool { return b.Store.Position().Number >= a.Store.Position().Number })
}

// TestKeyStoreOfAnotherNode: what an administrator does next with a key store that another node
// has just made waits until this one has opened it with the HSM, and no longer.
func TestKeyStoreOfAnotherNode(t *testing.T) {
	f := newFleetBed()
	a, _ := f.served(t)
	b := f.start(t, appliancetest.Options{})
	running(t, b)
	hsm := f.token.(*appliancetest.Memory)
	hsm.SetDelay(200 * time.Millisecond)
	for _, name := range []string{"one", "two"} {
		if _, err := a.Appliance.CreateKeyStore(t.Context(), appliance.KeyStore{Name: name, URIPathPrefix: "/" + name}); err != nil {
			t.Fatal(err)
		}
		reached(t, a, b)
		if ks, err := b.Appliance.ShowKeyStore(t.Context(), name); err != nil || ks.Name != name {
			t.Errorf("%s at the other node: %v", name, err)
		}
	}
	if s := b.Appliance.Status(t.Context()); len(s.OutOfService) != 0 {
		t.Errorf("out of service: %+v", s.OutOfService)
	}

	// With an HSM that is away it is told, and waited for no longer.
	hsm.SetDelay(500 * time.Millisecond) // so that it is cut before it has opened the key
	if _, err := a.Appliance.CreateKeyStore(t.Context(), appliance.KeyStore{Name: "three", URIPathPrefix: "/three"}); err != nil {
		t.Fatal(err)
	}
	hsm.Cut()
	reached(t, a, b)
	if _, err := b.Appliance.ShowKeyStore(t.Context(), "three"); err == nil {
		t.Error("a key store is shown that the HSM does not open")
	}
	began := time.Now()
	if _, err := b.Appliance.ShowKeyStore(t.Context(), "three"); err == nil || time.Since(began) > time.Second {
		t.Errorf("a key store that was tried: %v after %v", err, time.Since(began))
	}
	hsm.Restore()
	if _, err := b.Appliance.ShowKeyStore(t.Context(), "nothing"); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("a key store that there is not: %v", err)
	}
}

// TestFirstUseIsStoredAtOnce: the first use of a credential is known to other nodes at once,
// and further ones within a minute.
func TestFirstUseIsStoredAtOnce(t *testing.T) {
	f := newFleetBed()
	a, client := f.served(t)
	b := f.start(t, appliancetest.Options{})
	running(t, a)
	at(client, a).OK(appliancetest.Encrypt("k", "plain"))
	appliancetest.Eventually(t, "the first use is stored", func() bool {
		caughtUp(t, b)
		all, err := b.Appliance.Credentials(t.Context(), "prod")
		if err != nil {
			t.Fatal(err)
		}
		return len(all) == 1 && !all[0].LastUsedAt.IsZero()
	})
}
