package audit

import (
	"time"

	"holdfast/appliance/fault"
)

// Level says how much the disk has left.
type Level string

// The levels.
const (
	LevelOK      Level = "ok"
	LevelWarning Level = "warning" // less than Options.WarnBytes
	LevelFull    Level = "full"    // only the reserve: records are refused
)

// Status is the state of a log.
type Status struct {
	Size       int64      `json:"size"`       // records on the disk
	Bytes      int64      `json:"bytes"`      // of all segments
	Segments   int        `json:"segments"`   // files
	First      int64      `json:"first"`      // the oldest record that retention has left
	Checkpoint Checkpoint `json:"checkpoint"` // the newest
	// Lag is how many records no checkpoint covers yet, LagTime for how long.
	Lag     int64         `json:"lag"`
	LagTime time.Duration `json:"lag_ns"`
	// Unindexed is how many records Search must read one by one.
	Unindexed int64  `json:"unindexed"`
	Free      int64  `json:"free"` // bytes; -1 if it is not known
	Level     Level  `json:"level"`
	Recovered int64  `json:"recovered,omitempty"` // bytes of a torn line that Open cut off
	Broken    string `json:"broken,omitempty"`    // why nothing is written any more
	Signer    string `json:"signer,omitempty"`    // why the last signature failed
	// Peers are the logs of the fleet's other nodes, as this node has them on record.
	Peers []PeerStatus `json:"peers,omitempty"`
}

// PeerStatus is what a node has on record of a peer's log.
type PeerStatus struct {
	LogID string `json:"log_id"`
	// Size and At are of the newest head that was countersigned; zero before the first.
	Size int64     `json:"size"`
	At   time.Time `json:"at,omitzero"`
	// Refused is the code for which the newest head was not countersigned; empty if it was.
	Refused fault.Code `json:"refused,omitempty"`
}
