package operation

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

//go:generate go run ./guardsdoc ../../docs/operations-table.md

// GuardsDocument is docs/operations-table.md: what each operation can do, who may perform it, and
// what it asks for. It is made of the table alone.
func GuardsDocument() string {
	var b strings.Builder
	b.WriteString(`# What operations ask for

This page is generated from the table of operations (` + "`web/operation`" + `) by ` + "`make generate`" + `. An entry there says what the operation can do; presence, four eyes and confirmation follow from that. The console, the API and the OpenAPI document use the same table.

- **Role**: the least role that may perform it.
- **Scope**: what the key stores in the scope of an API token mean for it. *The key store*: the one that it is about must be in the scope. *The whole appliance*: a token that is limited to key stores must name the operation. *Beyond every scope*: it gives rights that no scope limits, so a token with any limit, of key stores, operations or networks, is refused.
- **Presence**: a user in the console proves again who they are if the last proof is older than ` + fmt.Sprintf("%.0f", PresenceTime.Minutes()) + ` minutes. The bearer of an API token is never present, and needs none.
- **Four eyes**: *can be chosen* in the settings to need the approval of a second person; *with any* needs it as soon as any other operation does. What does many of another operation at once, as of a file, needs it where that one does.
- **Confirmation**: where a mistake stops service, ends a block, destroys something or takes a user out, a person types the name of the thing. The console first shows a page with what relies on it, and the server checks the name; presence is proved after it. The command line does the same at a terminal, and asks nothing with ` + "`--yes`" + `, with ` + "`--json`" + ` or where no terminal is. The API never asks: its requests name the thing in the path. Where not each input can do harm, the column says which are confirmed.
- **Record**: what the audit log has. *Refusals* are recorded for every operation.

| operation | ID | role | scope | what it can do | presence | four eyes | confirmation | record |
|---|---|---|---|---|---|---|---|---|
`)
	for _, r := range table {
		g := r.Guards()
		fmt.Fprintf(&b, "| %s | `%s` | %s | %s | %s | %s | %s | %s | %s |\n", cmp.Or(r.Words, r.Summary), r.ID, needs(r.Capability), r.KeyStoreScope(), cmp.Or(r.Can().String(), "–"),
			yes(g.Presence, "yes"), r.fourEyesWords(), yes(g.Confirmed, cmp.Or(r.ConfirmedIf, "yes")), r.recordWords())
	}
	b.WriteString("\n## Operations that no second person is asked for\n\nThey have effects, and are done by one person all the same:\n\n")
	reasons := map[string][]string{}
	for _, r := range table {
		if r.Alone != "" {
			reasons[r.Alone] = append(reasons[r.Alone], "`"+r.ID+"`")
		}
	}
	lines := []string{}
	for why, ids := range reasons {
		lines = append(lines, fmt.Sprintf("- %s: %s\n", strings.Join(ids, ", "), why))
	}
	slices.Sort(lines)
	b.WriteString(strings.Join(lines, ""))
	b.WriteString("\nAn operation that only takes access away, such as the end of a session, needs no second person either: what it takes can be given back, and it must not wait.\n")
	return b.String()
}

func (r *Route) fourEyesWords() string {
	switch g := r.Guards(); {
	case g.WithAny:
		return "with any"
	case g.FourEyes && r.Many != nil:
		return "can be chosen, and is with `" + r.Many.ID + "`"
	case g.FourEyes:
		return "can be chosen"
	}
	return "–"
}

func (r *Route) recordWords() string {
	if r.Changes() || r.Recorded || r.Mutates() {
		return "each"
	}
	return "refusals"
}

func yes(is bool, word string) string {
	if is {
		return word
	}
	return "–"
}
