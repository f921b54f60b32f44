package nitro

import (
	"fmt"
	"strings"
)

// Admits says in sentences which machines' documents pass. Account and Region are told
// elsewhere where the policy asks for the instance's identity.
func (p Policy) Admits(identity bool) []string {
	where := "It may be any instance of EC2, in any account and Region."
	if identity {
		where = "Of AWS's documents for NitroTPMs, that of any instance will do."
	}
	var only []string
	if len(p.Instances) > 0 {
		only = append(only, "an instance of "+strings.Join(p.Instances, ", "))
	}
	if len(p.Regions) > 0 {
		only = append(only, "in a Region of "+strings.Join(p.Regions, ", "))
	}
	switch {
	case len(p.Instances) > 0:
		where = "It must be " + strings.Join(only, ", ") + "."
	case len(p.Regions) > 0:
		where = "It must be " + strings.Join(only, ", ")
		if !identity {
			where += ", and may be of any account"
		}
		where += "."
	}
	return []string{where, fmt.Sprintf("AWS's document must be signed within %d s of the evidence, with PCRs %v as in the quote.", p.MaxAgeSeconds, p.ComparePCRs)}
}
