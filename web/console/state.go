package console

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/appliance"
	"holdfast/web/console/ui"
)

// stateFacts are what pages show of the stored state as a whole.
func stateFacts(s *appliance.StateStatus, now time.Time) []ui.Fact {
	facts := []ui.Fact{
		{Term: "Number", Value: ui.Count(s.Head.Sequence)},
		{Term: "Digest", Value: s.Head.Digest, Mono: true, Copy: true},
		{Term: "Changed", Component: ui.When(s.Head.At, now)},
	}
	for _, a := range s.Anchors {
		facts = append(facts, ui.Fact{Term: anchorName(a.Name), Value: a.Words()})
	}
	if len(s.Anchors) == 0 {
		facts = append(facts, ui.Fact{Term: "Anchors", Value: "none"})
	}
	return facts
}

// anchorName says what an anchor is; that of the counter names the TPM by a digest.
func anchorName(name string) string {
	if strings.HasPrefix(name, "tpm:") {
		return "TPM's counter"
	}
	return "Anchor: " + name
}

// shownDamaged is how many sets of damaged rows a page names, and of how many key stores.
const shownDamaged = 50

// stateWarnings name what is out of service as its rows do not match, and the anchors that
// do not agree.
func stateWarnings(s *appliance.StateStatus, stores []*appliance.KeyStore) (list []warning) {
	const then = " Read all rows again with holdfast state verify. Then put the right database back, discard what is damaged, or accept the state with holdfast state accept."
	own, parts := map[string]bool{}, map[string][]string{}
	var ids []string
	for _, scope := range s.Damaged {
		id, part, of := strings.Cut(scope, "/")
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
		if of {
			parts[id] = append(parts[id], part)
		} else {
			own[id] = true
		}
	}
	if n := len(ids); n > shownDamaged {
		list = append(list, warning{ui.Bad, "Rows of " + ui.Count(n) + " key stores do not match their manifests, and are out of service", "The first " + ui.Count(shownDamaged) + " are below; holdfast state verify names all." + then})
		ids = ids[:shownDamaged]
	}
	for _, id := range ids {
		var what []string
		if own[id] {
			what = append(what, "Its own row, its credentials and its grants on all keys.")
		}
		if n := len(parts[id]); n > 0 {
			what = append(what, fmt.Sprintf("The keys in %d of its 256 parts: %s.", n, strings.Join(parts[id], ", ")))
		}
		list = append(list, warning{ui.Bad, "Rows of the key store " + storeName(id, stores) + " do not match their manifest, and are out of service", strings.Join(what, " ") + then})
	}
	for _, a := range s.Anchors {
		if !a.Agrees {
			list = append(list, warning{ui.Bad, anchorName(a.Name) + " does not agree with the stored state", a.Why})
		}
	}
	return list
}

// storeName gives the name of a key store; its ID if its row is not read.
func storeName(id string, stores []*appliance.KeyStore) string {
	for _, ks := range stores {
		if ks.ID == id {
			return ks.Name
		}
	}
	return id
}
