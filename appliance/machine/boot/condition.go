package boot

import (
	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
)

// ConditionOf puts how keys serve ([appliance.Service.Condition]) into the state that
// a boot which has come to serving is in, and why: [Options.Condition].
func ConditionOf(status appliance.HealthStatus, why *fault.Fault) (progress.State, *fault.Fault) {
	switch status {
	case appliance.HealthActive:
		return progress.Serving, nil
	case appliance.HealthDegraded:
		return progress.Degraded, why
	}
	return progress.Locked, why
}
