//go:build fleet

package fleettest_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/cmd/internal/fleettest"
	"holdfast/cmd/internal/kmsload"
	"holdfast/web/operation"
)

// What a fleet has refused before its database is tampered with.
const (
	isBlocked  = "is-blocked"
	isDisabled = "is-disabled"
	isDeleted  = "is-deleted" // scheduled for it
	isUngiven  = "is-ungiven" // its grant was removed

	narrow       = "narrow" // a key store where grants are of keys
	narrowPrefix = "/narrow"
)

// decision is what each node must answer, whatever is done to the database.
type decision struct {
	name string
	// refusal is the error of the specification; empty if the request is answered.
	refusal string
	ask     func(at *fleettest.Node) (*kmsload.Answer, error)
	// holds looks at an answer.
	holds func(a *kmsload.Answer) bool
}

var someCredential = operation.NewCredential{AccessKeyID: strings.Repeat("B", 20), SecretAccessKey: strings.Repeat("t", 43)}

// decide has a fleet come to the decisions, at its first node.
func decide(t *testing.T, f *fleettest.Fleet) (all []decision) {
	t.Helper()
	first := f.Nodes[0]
	for _, id := range []string{isBlocked, isDisabled, isDeleted} {
		f.NewKey(id, appliance.CustodyCached)
	}
	sealed, err := first.Ask(cached)
	if err != nil {
		t.Fatal(err)
	}
	first.Block(isBlocked)
	first.Do(http.MethodPost, nil, nil, "keystores", fleettest.KeyStore, "keys", isDisabled, "disable")
	first.Do(http.MethodPost, operation.Deletion{Days: 7}, nil, "keystores", fleettest.KeyStore, "keys", isDeleted, "delete")
	for _, key := range []string{isBlocked, isDisabled, isDeleted} {
		all = append(all, decision{name: key, refusal: blocked, ask: func(n *fleettest.Node) (*kmsload.Answer, error) { return n.Ask(key) }})
	}
	all = append(all, decision{name: "decrypts what it has encrypted", ask: func(n *fleettest.Node) (*kmsload.Answer, error) { return n.AskDecrypt(cached, sealed) },
		holds: func(a *kmsload.Answer) bool { return bytes.Equal(a.Plaintext, []byte(fleettest.Asked)) }})

	narrowKey := operation.NewKey{ID: isUngiven, Usage: appliance.Usage{Encrypt: true, Decrypt: true}, Custody: appliance.CustodyCached}
	var grant operation.Grant
	first.Do(http.MethodPost, operation.NewKeyStore{Name: narrow, URIPathPrefix: narrowPrefix}, nil, "keystores")
	first.Do(http.MethodPost, someCredential, nil, "keystores", narrow, "credentials")
	first.Do(http.MethodPost, narrowKey, nil, "keystores", narrow, "keys")
	first.Do(http.MethodPost, operation.NewGrant{KeyID: isUngiven, Principal: appliance.AnyPrincipal, Operations: []appliance.Operation{appliance.OpEncrypt}}, &grant, "keystores", narrow, "grants")
	ungiven := func(n *fleettest.Node) (*kmsload.Answer, error) {
		return n.AskAs(narrowPrefix, someCredential, isUngiven)
	}
	for _, n := range f.Nodes {
		n.Await("serves the key with a grant", func() bool { _, err := ungiven(n); return err == nil })
	}
	first.Do(http.MethodDelete, nil, nil, "keystores", narrow, "grants", grant.ID)
	all = append(all, decision{name: isUngiven, refusal: "AccessDeniedException", ask: ungiven})

	gone := operation.NewCredential{AccessKeyID: strings.Repeat("C", 20), SecretAccessKey: strings.Repeat("u", 43)}
	first.Do(http.MethodPost, gone, nil, "keystores", narrow, "credentials")
	first.Do(http.MethodPost, nil, nil, "keystores", narrow, "credentials", gone.AccessKeyID, "deactivate")
	all = append(all, decision{name: "is-deactivated", refusal: "AuthenticationFailedException", ask: func(n *fleettest.Node) (*kmsload.Answer, error) {
		return n.AskAs(narrowPrefix, gone, isUngiven)
	}})
	for _, n := range f.Nodes {
		for _, d := range all {
			n.Await(d.name, func() bool { return d.check(n) == nil })
		}
	}
	return all
}

// errUnanswered says that a node does not answer now, which is no other decision.
var errUnanswered = errors.New("no answer")

// check says whether a node decides so: errUnanswered if it does not decide.
func (d *decision) check(at *fleettest.Node) error {
	a, err := d.ask(at)
	var r *kmsload.Refusal
	switch {
	case err == nil && (d.refusal != "" || d.holds != nil && !d.holds(a)):
		return fmt.Errorf("%s: %s answers otherwise", d.name, at.Name)
	case err == nil, errors.As(err, &r) && d.refusal != "" && r.Name == d.refusal:
		return nil
	case errors.As(err, &r) && r.Status < http.StatusInternalServerError:
		return fmt.Errorf("%s: %s answers otherwise: %w", d.name, at.Name, err)
	}
	return fmt.Errorf("%s: %s: %w: %w", d.name, at.Name, errUnanswered, err)
}

// shared are the routes that show the rows that nodes share.
func shared() (all [][]string) {
	all = [][]string{{"keystores"}, {"users"}, {"tokens"}, {"approvals"}, {"invitations"}}
	for _, ks := range []string{fleettest.KeyStore, narrow} {
		for _, of := range []string{"keys", "grants", "credentials", "policy"} {
			all = append(all, []string{"keystores", ks, of})
		}
	}
	for _, key := range []string{cached, inHSM, other, isBlocked, isDisabled, isDeleted} {
		all = append(all, []string{"keystores", fleettest.KeyStore, "keys", key})
	}
	return all
}

// samePosition says whether the nodes have the same log, up to the same change.
func samePosition(f *fleettest.Fleet) error {
	positions := make([]appliance.Position, len(f.Nodes))
	for i, n := range f.Nodes {
		var err error
		if positions[i], err = n.Position(); err != nil {
			return err
		}
		if positions[i] != positions[0] {
			return fmt.Errorf("%s is at %v, and %s at %v", n.Name, positions[i], f.Nodes[0].Name, positions[0])
		}
	}
	return nil
}

// sameRows says whether the nodes show the same rows.
func sameRows(f *fleettest.Fleet) error {
	for _, route := range shared() {
		var of any
		for i, n := range f.Nodes {
			var is any
			if err := n.Try(http.MethodGet, nil, &is, route...); err != nil {
				return err
			}
			dropUses(is)
			if i == 0 {
				of = is
			} else if !reflect.DeepEqual(of, is) {
				return fmt.Errorf("%s of %s are other ones than of %s: %.500v, %.500v", route, n.Name, f.Nodes[0].Name, is, of)
			}
		}
	}
	return nil
}

// dropUses removes when something was used last from what a route shows: each node knows of
// its own uses.
func dropUses(shown any) {
	switch s := shown.(type) {
	case map[string]any:
		delete(s, "last_used_at")
		for _, v := range s {
			dropUses(v)
		}
	case []any:
		for _, v := range s {
			dropUses(v)
		}
	}
}
