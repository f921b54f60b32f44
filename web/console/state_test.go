package console

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/web/console/ui"
)

// TestStateWarnings: what does not match its manifest is named by the key store's name, its
// own rows apart from its keys; so is an anchor that does not agree.
func TestStateWarnings(t *testing.T) {
	s := &appliance.StateStatus{Damaged: []string{"a", "a/00", "a/3f", "gone/ff"}, Anchors: []appliance.AnchorStatus{
		{Name: "tpm:12", Why: "the TPM is away"}, {Name: "audit log", Agrees: true, Head: appliance.Head{Sequence: 3}}}}
	var lines []string
	for _, w := range stateWarnings(s, []*appliance.KeyStore{{ID: "a", Name: "payments"}}) {
		lines = append(lines, w.title+": "+w.text)
	}
	for i, want := range [][]string{{"key store payments ", "Its own row", "2 of its 256 parts: 00, 3f."}, {"key store gone ", "1 of its 256 parts: ff."}, {"TPM's counter", "the TPM is away"}} {
		for _, part := range want {
			if len(lines) != 3 || !strings.Contains(lines[i], part) {
				t.Errorf("%q lacks %q", lines, part)
			}
		}
	}
	if strings.Contains(lines[1], "Its own row") {
		t.Error(lines[1])
	}
	if w := stateWarnings(&appliance.StateStatus{}, nil); w != nil {
		t.Errorf("%+v", w)
	}
}

// TestStateFacts: the anchors are named with what they know, and that there is none.
func TestStateFacts(t *testing.T) {
	at := time.Date(2026, 11, 27, 1, 2, 3, 0, time.UTC)
	head := appliance.Head{Sequence: 1234, Digest: "d1", At: at}
	text := func(s *appliance.StateStatus) string {
		var all []string
		for _, f := range stateFacts(s, at) {
			all = append(all, f.Term+"="+f.Value)
		}
		return strings.Join(all, "; ")
	}
	if got := text(&appliance.StateStatus{Head: head}); got != "Number=1 234; Digest=d1; Changed=; Anchors=none" {
		t.Error(got)
	}
	got := text(&appliance.StateStatus{Head: head, Anchors: []appliance.AnchorStatus{{Name: "tpm:12", Agrees: true, Count: 7, Since: at}, {Name: "audit log", Agrees: true, Head: head, Since: at}, {Name: "new", Agrees: true}}})
	for _, want := range []string{"TPM's counter=agrees, at the count 7, since 2026-11-27T01:02:03Z", "Anchor: audit log=agrees, and knows the state number 1234 of", "Anchor: new=agrees, and was told nothing yet"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s lacks %s", got, want)
		}
	}
}

// TestStateWarningsAreBounded: of very many key stores with damaged rows the first are named, with
// how many there are.
func TestStateWarningsAreBounded(t *testing.T) {
	s := &appliance.StateStatus{}
	for i := range 5000 {
		s.Damaged = append(s.Damaged, fmt.Sprintf("store-%04d", i))
	}
	w := stateWarnings(s, nil)
	if len(w) != shownDamaged+1 || !strings.Contains(w[0].title, ui.Count(5000)+" key stores") || !strings.Contains(w[1].title, "store-0000") {
		t.Errorf("%d warnings; the first is %+v", len(w), w[0])
	}
}
