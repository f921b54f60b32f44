package appliance_test

import (
	"context"
	"sync/atomic"
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
	ran := appliancetest.Running(t)
	if _, err := b.Appliance.ShowKeyStore(t.Context(), "three"); err == nil || ran() > time.Second {
		t.Errorf("a key store that was tried: %v after %v", err, ran())
	}
	hsm.Restore()
	if _, err := b.Appliance.ShowKeyStore(t.Context(), "nothing"); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("a key store that there is not: %v", err)
	}
}

// TestFirstUsesAreStoredTogether: the first use of a credential is known to other nodes within
// seconds, and the uses of many are one change of the log.
func TestFirstUsesAreStoredTogether(t *testing.T) {
	f := newFleetBed()
	a, client := f.served(t)
	clients := []*appliancetest.Client{client}
	for _, name := range []string{"two", "three"} {
		clients = append(clients, a.NewKeyStore(t, name, "/"+name, appliancetest.Principal))
		a.NewKey(t, name, "k", "encrypt,decrypt", appliance.CustodyCached)
	}
	b := f.start(t, appliancetest.Options{})
	running(t, a)
	newest := func() uint64 {
		n, err := f.log.Newest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	used := func() (n int) {
		caughtUp(t, b)
		for _, name := range []string{"prod", "two", "three"} {
			all, err := b.Appliance.Credentials(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			if len(all) == 1 && !all[0].LastUsedAt.IsZero() {
				n++
			}
		}
		return n
	}
	for i, c := range clients {
		at(c, a).OK(appliancetest.Encrypt("k", "plain"))
		for began := time.Now(); i == 0 && time.Since(began) < time.Second; {
			if used() > 0 {
				t.Fatal("the first use is written alone")
			}
		}
	}
	before, n := uint64(0), 0
	appliancetest.Eventually(t, "the first uses are stored", func() bool {
		if n == 0 {
			before = newest()
		}
		n = used()
		return n > 0
	})
	if changes := newest() - before; n != len(clients) || changes > 1 {
		t.Errorf("%d of %d uses are stored, by %d changes", n, len(clients), changes)
	}
}

// hangingLog is a log that does not answer an append until it is let go.
type hangingLog struct {
	appliance.ChangeLog
	hang  atomic.Bool
	began chan struct{}
	letGo chan struct{}
}

func (l *hangingLog) Append(ctx context.Context, number uint64, body []byte) error {
	if l.hang.CompareAndSwap(true, false) {
		close(l.began)
		<-l.letGo
	}
	return l.ChangeLog.Append(ctx, number, body)
}

// TestUsesAreStoredBesideViews: while the database does not answer the write of uses, what
// needs them, as a list of credentials, does not wait.
func TestUsesAreStoredBesideViews(t *testing.T) {
	f := newFleetBed()
	l := &hangingLog{ChangeLog: f.log.Peer(), began: make(chan struct{}), letGo: make(chan struct{})}
	a := appliancetest.Start(t, appliancetest.Options{Token: f.token, Appliance: appliance.Options{ChangeLog: l}})
	client := a.NewKeyStore(t, "prod", "/prod", appliancetest.Principal)
	a.NewKey(t, "prod", "k", "encrypt,decrypt", appliance.CustodyCached)
	running(t, a)
	at(client, a).OK(appliancetest.Encrypt("k", "plain"))
	l.hang.Store(true)
	<-l.began
	listed := make(chan error, 1)
	go func() {
		_, err := a.Appliance.Credentials(context.Background(), "prod")
		listed <- err
	}()
	select {
	case err := <-listed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("a list of credentials waits for the database")
	}
	close(l.letGo)
}
