package ec2

// Known has it know another certificate as AWS's of a Region, until the test ends.
func Known(der []byte, region string) (forget func()) {
	known[fingerprint(der)] = region
	return func() { delete(known, fingerprint(der)) }
}

// All gives the known ones.
func All() map[string]string { return known }
