package operation

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/audit"
)

// oneKey is a domain that has a key.
type oneKey struct{ notHeld }

func (oneKey) ShowKey(context.Context, string, string) (*appliance.StoredKey, error) {
	return &appliance.StoredKey{}, nil
}

// usedLog has requests of KMS that were allowed.
func usedLog(node string, seconds ...int) *memoryLog {
	m := newMemoryLog(node, seconds...)
	for _, r := range m.records {
		r.Kind, r.Result, r.KeyStore, r.Key, r.Principal = audit.KindXKS, audit.Allowed, "bank", "k", "p"
	}
	return m
}

// TestSilentNodeBeforeADeletion: while the log of a node does not answer, nothing says that nobody
// used a key, and what is counted is said to be the least.
func TestSilentNodeBeforeADeletion(t *testing.T) {
	never := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for name, c := range map[string]struct {
		own    []int
		silent bool
		want   string
		not    string
	}{
		"none, all answer":          {nil, false, "No request of KMS used it", "not known"},
		"none, one does not":        {nil, true, "Whether it is used is not known", "No request of KMS"},
		"some, all answer":          {[]int{-6, -5}, false, "Requests answered: 2 in", "at least"},
		"some, one does not answer": {[]int{-6, -5}, true, "at least 2 in", "KMS used it last"},
	} {
		synctest.Test(t, func(t *testing.T) {
			a, b := usedLog("a", c.own...), newMemoryLog("b")
			if c.silent {
				b.search = never
			}
			caller := fleetOf(a, b)
			caller.Domain = oneKey{}
			done, err := ShowDependents.Do(t.Context(), caller, DependentsOf{KeyStore: "bank", Key: "k"})
			if err != nil {
				t.Fatal(err)
			}
			says := strings.Join(done.Out.Uses.Sentences(), " ")
			if !strings.Contains(says, c.want) || strings.Contains(says, c.not) || strings.Contains(says, "Node b does not answer") != c.silent || (len(done.Out.Uses.Silent) == 1) != c.silent {
				t.Errorf("%s: %s", name, says)
			}
		})
	}
}

// hung is a domain whose database does not answer.
type hung struct{ notHeld }

func (hung) wait(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func (h hung) ShowKey(ctx context.Context, _, _ string) (*appliance.StoredKey, error) {
	return nil, h.wait(ctx)
}
func (h hung) ShowKeyStore(ctx context.Context, _ string) (*appliance.KeyStoreDetail, error) {
	return nil, h.wait(ctx)
}
func (h hung) KeyStores(ctx context.Context) ([]*appliance.KeyStore, error) { return nil, h.wait(ctx) }
func (h hung) Credentials(ctx context.Context, _ string) ([]*appliance.Credential, error) {
	return nil, h.wait(ctx)
}
func (h hung) Grants(ctx context.Context, _ string) ([]*appliance.Grant, error) {
	return nil, h.wait(ctx)
}

// lists is a domain that has a key store, and whose list of keys does not come.
type lists struct{ hung }

func (lists) ShowKeyStore(context.Context, string) (*appliance.KeyStoreDetail, error) {
	return &appliance.KeyStoreDetail{Keys: 5}, nil
}
func (l lists) Keys(ctx context.Context, _ string, _ appliance.Page, _ appliance.StandingState) ([]*appliance.ExternalKey, error) {
	return nil, l.wait(ctx)
}

// TestDependentsAreBounded: what relies on a thing is answered within three seconds, whatever does
// not answer; what is not known is named, and the uses are counted without the database.
func TestDependentsAreBounded(t *testing.T) {
	for _, in := range []DependentsOf{{}, {KeyStore: "bank"}, {KeyStore: "bank", Key: "k"}, {KeyStore: "bank", Credential: "c"}, {KeyStore: "bank", Grant: "g"}} {
		for name, domain := range map[string]Domain{"the database": hung{}, "the list of keys": lists{}} {
			synctest.Test(t, func(t *testing.T) {
				caller := fleetOf(usedLog("a", -5), newMemoryLog("b"))
				caller.Domain = domain
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				began := time.Now()
				done, err := ShowDependents.Do(ctx, caller, in)
				if took := time.Since(began); err != nil || took > 3*time.Second {
					t.Fatalf("%+v, %s does not answer: %v after %s", in, name, err, took)
				}
				if len(done.Out.Unknown) == 0 {
					t.Errorf("%+v, %s does not answer, and all is known: %+v", in, name, done.Out)
				}
				if in.Credential == "" && in.Grant == "" && (done.Out.Uses == nil || done.Out.Uses.Week != 1) {
					t.Errorf("%+v, %s does not answer: the uses are %+v", in, name, done.Out.Uses)
				}
			})
		}
	}
}

// oneCredential is a domain with a credential that was used at that time.
type oneCredential struct {
	notHeld
	used time.Time
}

func (o oneCredential) Credentials(context.Context, string) ([]*appliance.Credential, error) {
	return []*appliance.Credential{{AccessKeyID: "c", Active: true, LastUsedAt: o.used}}, nil
}

// TestFirstUseAtAnotherNode: a node of a fleet does not say that KMS has never used a credential,
// since it hears of a first use at another node a little later.
func TestFirstUseAtAnotherNode(t *testing.T) {
	for name, c := range map[string]struct {
		fleet Fleet
		used  time.Time
		want  string
	}{
		"alone, not used":      {nil, time.Time{}, "KMS has never used it."},
		"in a fleet, not used": {struct{ Fleet }{}, time.Time{}, "This node knows of no use by KMS. Another node tells of a first one within half a minute: look once more after that."},
		"in a fleet, used":     {struct{ Fleet }{}, time.Unix(1, 0), "KMS used it last on 1970-01-01 00:00:01 UTC."},
	} {
		caller := fleetOf(newMemoryLog("a"))
		caller.Domain, caller.Fleet = oneCredential{used: c.used}, c.fleet
		done, err := ShowDependents.Do(t.Context(), caller, DependentsOf{KeyStore: "bank", Credential: "c"})
		if err != nil || done.Out.Says[0] != c.want {
			t.Errorf("%s: %v %v", name, done.Out.Says, err)
		}
	}
}
