package appliance_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
)

// quiet is a log that says nothing of changes by itself.
type quiet struct{ *countedLog }

func (quiet) Changed() <-chan struct{} { return nil }

// startQuiet starts a node that does its work in the background and takes changes over only
// when the log is asked, each second. It gives how often that was.
func (f *fleetBed) startQuiet(t *testing.T) (*appliancetest.Bed, *countedLog) {
	t.Helper()
	log := &countedLog{ChangeLog: f.log.Peer()}
	b := appliancetest.Start(t, appliancetest.Options{Token: f.token, Appliance: appliance.Options{ChangeLog: quiet{log}}})
	ctx, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { b.Appliance.Run(ctx) })
	t.Cleanup(func() { stop(); work.Wait() })
	return b, log
}

// TestMadeAtAnotherNode: what was made at one node serves at once at another one, which has
// not heard of it yet: a key store, a credential, a key, a grant.
func TestMadeAtAnotherNode(t *testing.T) {
	f := newFleetBed()
	a := f.start(t, appliancetest.Options{})
	b, _ := f.startQuiet(t)
	b.Appliance.SetLookWithin(time.Minute)
	const other = "arn:aws:iam::210987654321:role/new"
	var client *appliancetest.Client
	for i := range 2 { // looks are bounded, and each time there are four
		name := fmt.Sprint("store", i)
		client = a.NewKeyStore(t, name, "/"+name, appliancetest.Principal)
		a.NewKey(t, name, "k", "encrypt,decrypt", appliance.CustodyCached)
		at(client, b).OK(appliancetest.Encrypt("k", "plain"))

		a.NewKey(t, name, "next", "encrypt,decrypt", appliance.CustodyCached)
		at(client, b).OK(appliancetest.Encrypt("next", "plain"))

		c, secret, err := a.Appliance.CreateCredential(t.Context(), name, appliance.NewCredential{})
		if err != nil {
			t.Fatal(err)
		}
		e, err := b.Appliance.Endpoint("/" + name)
		if err != nil || !e.HasCredential(c.AccessKeyID) {
			t.Fatalf("the credential is not known: %v", err)
		}
		if _, err := a.Appliance.AddGrant(t.Context(), name, appliance.Grant{Principal: other, Operations: []appliance.Operation{appliance.OpEncrypt}}); err != nil {
			t.Fatal(err)
		}
		granted := appliancetest.Encrypt("k", "plain")
		granted.Context.Principal = other
		at(client, b).OK(granted)

		another := at(client, b)
		another.AccessKeyID, another.SecretAccessKey = c.AccessKeyID, secret
		another.OK(appliancetest.Encrypt("k", "plain"))
	}
}

// TestStrangersAskLittle: who asks for what there is not has the database asked some times
// in a second, whatever he names and however many there are; and waits little where the
// database does not answer.
func TestStrangersAskLittle(t *testing.T) {
	f := newFleetBed()
	_, client := f.served(t)
	b, log := f.startQuiet(t)
	e, err := b.Appliance.Endpoint("/prod")
	if err != nil {
		t.Fatal(err)
	}
	before, began := log.asked.Load(), time.Now()
	var strangers sync.WaitGroup
	for i := range 20 {
		strangers.Go(func() {
			for j := range 100 {
				if _, err := b.Appliance.Endpoint(fmt.Sprint("/none", i, j)); fault.CodeOf(err) != fault.NotFound {
					t.Errorf("%v", err)
				}
				if e.HasCredential(fmt.Sprint("NONE", i, j)) {
					t.Error("there is such a credential")
				}
			}
		})
	}
	strangers.Wait()
	most := int64(3 * (2*10 + 11*(time.Since(began)/time.Second+1))) // each look, and each second, asks for changes and the newest
	if asked := log.asked.Load() - before; asked > most {
		t.Errorf("for 4000 requests the database was asked %d times, more than %d", asked, most)
	}
	log.fails.Store(true)
	for asked := log.asked.Load(); log.asked.Load() == asked; { // one that is not answered
		_, _ = b.Appliance.Endpoint("/away")
	}
	ran := appliancetest.Running(t)
	for i := range 500 {
		_, _ = b.Appliance.Endpoint(fmt.Sprint("/away", i))
	}
	if took := ran(); took > 2*time.Second {
		t.Errorf("500 requests took %v", took)
	}
	at(client, b).OK(appliancetest.Encrypt("k", "plain"))
}
