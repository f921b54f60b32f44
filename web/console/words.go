package console

import (
	"fmt"
	"strings"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/web/console/ui"
)

func orNone(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

// policyText names the policy, and says by which words it is used if it does not
// prove the code.
func policyText(a *progress.Attestation) string {
	text := fmt.Sprintf("%s, version %d", a.Policy, a.Version)
	if a.Unproven != "" {
		text += "; it does not prove which code runs, and is used because: " + a.Unproven
	}
	return text
}

func joined(list []string) string { return orNone(strings.Join(list, ", ")) }

func verdictBadge(result string) ui.Badge {
	switch result {
	case "pass":
		return ui.Badge{Kind: ui.OK, Text: "Pass"}
	case "fail":
		return ui.Badge{Kind: ui.Bad, Text: "Fail"}
	case "incomplete":
		return ui.Badge{Kind: ui.Warn, Text: "Incomplete"}
	case "missing":
		return ui.Badge{Kind: ui.Warn, Text: "Missing"}
	}
	return ui.Badge{Kind: ui.Off, Text: "Not run"}
}

func resultBadge(r audit.Result) ui.Badge {
	switch r {
	case audit.Allowed:
		return ui.Badge{Kind: ui.OK, Text: "Allowed"}
	case audit.Denied:
		return ui.Badge{Kind: ui.Warn, Text: "Denied"}
	case audit.Failed:
		return ui.Badge{Kind: ui.Bad, Text: "Failed"}
	}
	return ui.Badge{Kind: ui.Info, Text: "Noted"}
}

func operations(list []appliance.Operation) string {
	return strings.ReplaceAll(appliance.JoinOperations(list), ",", ", ")
}
