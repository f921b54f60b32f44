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

// StallAfter is how long the disk may take for records before that is a stall. KMS gives up
// after 250 ms.
const StallAfter = 100 * time.Millisecond

// Status is the state of a log.
type Status struct {
	Size       int64      `json:"size" jsonschema:"How many records are on the disk."`       // records on the disk
	Bytes      int64      `json:"bytes" jsonschema:"How many bytes all segments have."`      // of all segments
	Segments   int        `json:"segments" jsonschema:"How many files the log has."`         // files
	First      int64      `json:"first" jsonschema:"The oldest record that is still there."` // the oldest record that retention has left
	Checkpoint Checkpoint `json:"checkpoint" jsonschema:"The newest checkpoint."`            // the newest
	// Lag is how many records no checkpoint covers yet, LagTime for how long.
	Lag     int64         `json:"lag" jsonschema:"How many records no checkpoint covers yet."`
	LagTime time.Duration `json:"lag_ns" jsonschema:"For how long the oldest of them has not been covered, in nanoseconds."`
	// Unindexed is how many records Search must read one by one.
	Unindexed int64  `json:"unindexed" jsonschema:"How many records a search must read one by one."`
	Free      int64  `json:"free" jsonschema:"How many bytes the disk has left; -1 if that is not known."` // bytes; -1 if it is not known
	Level     Level  `json:"level" jsonschema:"Whether the disk has enough space."`
	Recovered int64  `json:"recovered,omitempty" jsonschema:"How many bytes of a torn record were cut off when the log was opened."` // bytes of a torn line that Open cut off
	Broken    string `json:"broken,omitempty" jsonschema:"Why nothing is recorded any more; absent if it is."`                       // why nothing is written any more
	Signer    string `json:"signer,omitempty" jsonschema:"Why the last signature failed; absent if it did not."`                     // why the last signature failed
	// Writes, Stalls and Slowest are since the log was opened: how often records were written,
	// several at a time; how often that took longer than [StallAfter]; and the longest.
	Writes  int64         `json:"writes" jsonschema:"How often records were written since the log was opened, several at a time."`
	Stalls  int64         `json:"stalls" jsonschema:"How often that took longer than 100 ms: a request that waits for 220 ms is refused."`
	Slowest time.Duration `json:"slowest_ns" jsonschema:"The longest that a record has waited for the disk, in nanoseconds."`
	// Peers are the logs of the fleet's other nodes, as this node has them on record.
	Peers []PeerStatus `json:"peers,omitempty" jsonschema:"The logs of the fleet's other nodes, as this node has them on record."`
}

// PeerStatus is what a node has on record of a peer's log.
type PeerStatus struct {
	LogID string `json:"log_id" jsonschema:"The ID of the other node's log."`
	// Size and At are of the newest head that was countersigned; zero before the first.
	Size int64     `json:"size" jsonschema:"How many records the newest countersigned head covers; 0 before the first."`
	At   time.Time `json:"at,omitzero" jsonschema:"When the newest head was countersigned; absent before the first."`
	// Refused is the code for which the newest head was not countersigned; empty if it was.
	Refused fault.Code `json:"refused,omitempty" jsonschema:"The code for which the newest head was not countersigned; absent if it was."`
}
