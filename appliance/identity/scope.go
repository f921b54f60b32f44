package identity

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"holdfast/appliance/fault"
)

// Scope is what an API token may be used for, besides its role. Each of the three lists
// says all that is allowed, or [Everything] alone. None may be empty: who wants no limit says so.
type Scope struct {
	KeyStores  []string `json:"key_stores" jsonschema:"Names of the key stores that the token may be used for, or * alone for all." example:"[\"*\"]" fewest:"1" items:"100" each:"128"`
	Operations []string `json:"operations" jsonschema:"IDs of the operations that the token may perform, as in this document, or * alone for all." example:"[\"listKeys\"]" fewest:"1" items:"100" each:"128"`
	Networks   []string `json:"networks" jsonschema:"Networks (CIDR) that the token may be used from, or * alone for all." example:"[\"10.20.0.0/16\"]" fewest:"1" items:"100" each:"64"`
}

// Everything stands alone in a list of a [Scope] that sets no limit.
const Everything = "*"

// maxScope bounds each list of a scope, so that a token's row stays small.
const maxScope = 100

// scopeName is what the name of a key store and the ID of an operation can be.
var scopeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// lists gives the lists of a scope with what they are called in commands and forms.
func (s *Scope) lists() []scopeList {
	return []scopeList{{"key stores", "--key-store", s.KeyStores}, {"operations", "--operation", s.Operations}, {"networks", "--network", s.Networks}}
}

type scopeList struct {
	name, flag string
	values     []string
}

// Validate says what is wrong with a scope. fault.Invalid: a list is empty, too long, has a value
// twice or one that is no name or network, or has other values beside "*".
func (s *Scope) Validate() error {
	for _, l := range s.lists() {
		switch {
		case len(l.values) == 0:
			return fault.Errorf(fault.Invalid, "the token's scope names no %s: name them (%s), or say \"*\" for all", l.name, l.flag)
		case len(l.values) > maxScope:
			return fault.Errorf(fault.Invalid, "the token's scope names %d %s: name at most %d, or say \"*\" for all", len(l.values), l.name, maxScope)
		case slices.Contains(l.values, Everything) && len(l.values) > 1:
			return fault.Errorf(fault.Invalid, "the token's scope has %s beside \"*\", which is all: leave one of the two out", l.name)
		case len(slices.Compact(slices.Sorted(slices.Values(l.values)))) != len(l.values):
			return fault.Errorf(fault.Invalid, "the token's scope names one of the %s twice", l.name)
		}
	}
	for _, name := range slices.Concat(s.KeyStores, s.Operations) {
		if name != Everything && !scopeName.MatchString(name) {
			return fault.Errorf(fault.Invalid, "%.80q in the token's scope is the name of no key store or operation", name)
		}
	}
	for _, n := range s.Networks {
		if n == Everything {
			continue
		}
		if p, err := netip.ParsePrefix(n); err != nil || p != p.Masked() || p.Addr().Is4In6() {
			return fault.Errorf(fault.Invalid, "network %.60q in the token's scope: give one such as 10.20.0.0/16 or 2001:db8::/32, with zeros after its prefix", n)
		}
	}
	return nil
}

// within says that a scope goes beyond another: fault.Forbidden.
func (s *Scope) within(maker *Scope) error {
	if maker == nil {
		return nil
	}
	theirs := maker.lists()
	for i, l := range s.lists() {
		covers := slices.Contains[[]string, string]
		if l.name == "networks" {
			covers = coversNetwork
		}
		for _, v := range l.values {
			if !slices.Contains(theirs[i].values, Everything) && !covers(theirs[i].values, v) {
				return fault.Errorf(fault.Forbidden, "the scope's %s have %.80q, which is beyond your own scope", l.name, v)
			}
		}
	}
	return nil
}

// coversNetwork says whether one of the networks contains another one whole.
func coversNetwork(networks []string, other string) bool {
	want, err := netip.ParsePrefix(other)
	return err == nil && slices.ContainsFunc(networks, func(n string) bool {
		p, err := netip.ParsePrefix(n)
		return err == nil && p.Bits() <= want.Bits() && p.Contains(want.Addr())
	})
}

// Limits says whether the scope limits anything.
func (s *Scope) Limits() bool {
	return s != nil && slices.ContainsFunc(s.lists(), func(l scopeList) bool { return !slices.Contains(l.values, Everything) })
}

// HasKeyStore says whether the scope has a key store; without a scope all are had.
func (s *Scope) HasKeyStore(name string) bool {
	return s == nil || slices.Contains(s.KeyStores, Everything) || slices.Contains(s.KeyStores, name)
}

// AllKeyStores says whether the scope sets no limit to key stores.
func (s *Scope) AllKeyStores() bool { return s == nil || slices.Contains(s.KeyStores, Everything) }

// HasOperation says whether the scope has an operation; without a scope all are had.
func (s *Scope) HasOperation(id string) bool {
	return s == nil || slices.Contains(s.Operations, Everything) || slices.Contains(s.Operations, id)
}

// NamesOperation says whether the scope has an operation by its name.
func (s *Scope) NamesOperation(id string) bool { return s != nil && slices.Contains(s.Operations, id) }

// HasAddress says whether the scope has the address of a connection, with or without port. An
// address that cannot be read is in no network.
func (s *Scope) HasAddress(address string) bool {
	if s == nil || slices.Contains(s.Networks, Everything) {
		return true
	}
	if host, _, err := net.SplitHostPort(address); err == nil {
		address = host
	}
	a, err := netip.ParseAddr(address)
	if err != nil {
		return false
	}
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(s.Networks, func(n string) bool {
		p, err := netip.ParsePrefix(n)
		return err == nil && p.Contains(a)
	})
}

// String says in words what the scope allows.
func (s *Scope) String() string {
	if s == nil {
		return "everything: made before scopes"
	}
	if !s.Limits() {
		return "everything"
	}
	var parts []string
	for _, l := range s.lists() {
		if slices.Contains(l.values, Everything) {
			parts = append(parts, "all "+l.name)
			continue
		}
		parts = append(parts, l.name+" "+strings.Join(l.values, ", "))
	}
	return strings.Join(parts, "; ")
}

// Unlimited is the scope that says openly that it sets no limit.
func Unlimited() *Scope {
	return &Scope{KeyStores: []string{Everything}, Operations: []string{Everything}, Networks: []string{Everything}}
}

// Text is the scope as it is stored and sealed, in JSON.
func (s *Scope) Text() string {
	text, _ := json.Marshal(s) // never fails: it is strings
	return string(text)
}

// DecodeScope reads a stored scope. One that says nothing of a list is an error.
func DecodeScope(text string) (*Scope, error) {
	s := &Scope{}
	if err := json.Unmarshal([]byte(text), s); err != nil {
		return nil, fmt.Errorf("the scope of an API token: %w", err)
	}
	return s, s.Validate()
}
