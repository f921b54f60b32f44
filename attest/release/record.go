package release

import (
	"crypto/ed25519"
	"maps"
	"slices"
	"time"

	"holdfast/attest"
	"holdfast/attest/ec2"
)

// Record is one line of the broker's log: what was decided about a machine, or what a
// person changed.
type Record struct {
	// Number counts the records of a broker from 1, over all files of its log. Prev is the
	// SHA-256 of the line before, in hexadecimal; zeros in the first line of a file.
	Number  uint64    `json:"number"`
	Prev    string    `json:"prev"`
	Time    time.Time `json:"time"`
	Machine string    `json:"machine"`
	Remote  string    `json:"remote"`
	// Result is what happened; Code and Reason say why a release was refused. Reason is
	// otherwise what the person wrote who did it, or by which rule a machine was admitted.
	Result string `json:"result"`
	Code   string `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
	// By is the person: the user of the operating system.
	By string `json:"by,omitempty"`
	// EvidenceDigest is the SHA-256 of the evidence file, in hexadecimal.
	EvidenceDigest string `json:"evidence_sha256,omitempty"`
	PolicyVersion  uint64 `json:"policy_version,omitempty"`
	// Unproven says why the policy was used though it does not prove the code; empty
	// if it does.
	attest.Unproven

	// Identity is who the machine is, by evidence that met the policy.
	Identity *Identity `json:"identity,omitempty"`
	// Instance is what EC2 says of it, and Owner the SHA-256 of the key that its launch file
	// is signed by, in hexadecimal; both where the policy asks for the instance's identity.
	Instance *ec2.Instance `json:"instance,omitempty"`
	Owner    string        `json:"owner_sha256,omitempty"`
	// Admission, Policy and State are what changed: which machine gets the PIN under that
	// name from now on, the policy in force, or all at the beginning of a file.
	Admission *Admission    `json:"admission,omitempty"`
	Policy    *KeptPolicy   `json:"policy,omitempty"`
	State     *LogState     `json:"state,omitempty"`
	Before    *FormerRecord `json:"before,omitempty"`
}

// What a record can be of.
const (
	Released  = "released"
	Refused   = "refused"
	Begun     = "begun"     // a file of the log
	Installed = "installed" // a policy
	Added     = "added"     // a PIN
	Admitted  = "admitted"  // a machine, by a person
	Revoked   = "revoked"   // one machine, or all if none is named
	Resumed   = "resumed"   // all
)

// Identity says which machine evidence is of. What it does not show is empty.
type Identity struct {
	// Instance is the EC2 instance (i-…), of the NitroTPM's document.
	Instance string `json:"instance,omitempty"`
	// AK is the SHA-256 of the public area of the TPM's attestation key, which is the
	// same after every start of the machine. Volume is the identity of its state volume,
	// as it was measured. Both in hexadecimal.
	AK     string `json:"ak_sha256,omitempty"`
	Volume string `json:"volume,omitempty"`
}

// Admission says which machine gets the PIN that is kept under a name.
type Admission struct {
	// Identity is the machine; what is empty is taken from its next release.
	Identity
	// First admits whichever machine is released first.
	First bool `json:"first,omitempty"`
}

// pinned says whether a machine is named.
func (a *Admission) pinned() bool { return a.Identity != Identity{} }

// KeptPolicy is the policy in force.
type KeptPolicy struct {
	// Key is its signer's.
	Key  ed25519.PublicKey `json:"key"`
	Name string            `json:"name"`
	attest.SignedID
}

// FormerRecord says what a file of the log follows on.
type FormerRecord struct {
	// File is where the one before lies; SHA256 is that of its content, in hexadecimal.
	// Number and Digest are its last record, as far as it could be read. Signed says
	// whether it is a file of signed records; those of former releases were not.
	File   string `json:"file,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
	Number uint64 `json:"number,omitempty"`
	Digest string `json:"digest,omitempty"`
	Signed bool   `json:"signed"`
}

// LogState is what all records up to one have made of the broker.
type LogState struct {
	Policy   *KeptPolicy          `json:"policy,omitempty"`
	Machines map[string]Admission `json:"machines,omitempty"`
	// Stopped are the machines that get nothing, AllStopped says that none does.
	Stopped    []string `json:"stopped,omitempty"`
	AllStopped bool     `json:"all_stopped,omitempty"`
}

func (s *LogState) clone() LogState {
	c := *s
	c.Machines, c.Stopped = maps.Clone(s.Machines), slices.Clone(s.Stopped)
	return c
}

// apply has the record change the state.
func (s *LogState) apply(r *Record) {
	if r.State != nil {
		*s = r.State.clone()
	}
	if r.Policy != nil {
		s.Policy = r.Policy
	}
	if r.Admission != nil {
		if s.Machines == nil {
			s.Machines = map[string]Admission{}
		}
		s.Machines[r.Machine] = *r.Admission
	}
	switch {
	case r.Result == Revoked && r.Machine == "":
		s.AllStopped = true
	case r.Result == Resumed:
		s.AllStopped = false
	case r.Result == Revoked && !slices.Contains(s.Stopped, r.Machine):
		s.Stopped = append(s.Stopped, r.Machine)
	case r.Result == Added:
		s.Stopped = slices.DeleteFunc(s.Stopped, func(m string) bool { return m == r.Machine })
	}
}

func (s *LogState) stopped(machine string) bool {
	return s.AllStopped || slices.Contains(s.Stopped, machine)
}
