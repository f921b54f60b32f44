package console

import (
	"fmt"
	"strings"

	"holdfast/appliance"
	"holdfast/appliance/audit"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
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
	}
	return ui.Badge{Kind: ui.Off, Text: "Not run"}
}

func servesBadge(h *operation.KeyStoreHealth) ui.Badge {
	if !h.Serves {
		return ui.Badge{Kind: ui.Bad, Text: "Refuses"}
	}
	for _, m := range h.HSMs {
		if m.Status == appliance.HealthActive {
			return ui.Badge{Kind: ui.OK, Text: "Serves"}
		}
	}
	return ui.Badge{Kind: ui.Warn, Text: "Serves, degraded"}
}

func keyBadge(k *appliance.ExternalKey) ui.Badge {
	if !k.Blocked.IsZero() {
		return ui.Badge{Kind: ui.Bad, Text: "Blocked"}
	}
	switch k.State {
	case appliance.KeyEnabled:
		return ui.Badge{Kind: ui.OK, Text: "Enabled"}
	case appliance.KeyPendingDeletion:
		return ui.Badge{Kind: ui.Warn, Text: "Pending deletion"}
	case appliance.KeyDeletionSuspended:
		return ui.Badge{Kind: ui.Warn, Text: "Deletion suspended"}
	}
	return ui.Badge{Kind: ui.Off, Text: "Disabled"}
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

func activeBadge(active bool) ui.Badge {
	if active {
		return ui.Badge{Kind: ui.OK, Text: "Active"}
	}
	return ui.Badge{Kind: ui.Off, Text: "Inactive"}
}

func operations(list []appliance.Operation) string {
	return strings.ReplaceAll(appliance.JoinOperations(list), ",", ", ")
}
