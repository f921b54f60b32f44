package appliance

import "time"

// BootStep is a state that a boot went through (package appliance/machine/boot).
type BootStep struct {
	// Boot names the boot: 32 hexadecimal digits. Seq counts its steps from 1.
	Boot string `json:"boot"`
	Seq  int    `json:"seq"`
	// State is the state's name.
	State string    `json:"state"`
	Began time.Time `json:"began"`
	// Took is how long the state took; 0 for one without an end of its own.
	Took time.Duration `json:"took_ns"`
	// Code and Reason say why it failed, or why it was entered; Code is stable.
	Code   string `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
}
