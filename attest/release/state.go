package release

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/go-json-experiment/json"

	"holdfast/appliance/fault"
	"holdfast/attest"
)

// KnownState is the newest state of a machine's appliance that a broker was told, and since
// when it knows it.
type KnownState struct {
	attest.State
	Since time.Time `json:"since"`
}

// state keeps the state that a machine's evidence names, if it is newer than the one that is
// known, and answers the newest. An older one, or another of the same number, is answered
// and not kept: the machine says what follows.
func (b *Broker) state(remote, key string, spki []byte, req releaseRequest) (*stateAnswer, error) {
	evidence, err := b.shown(key, spki, req)
	if err != nil {
		return nil, err
	}
	known, err := b.o.Vault.know(req.Machine, evidence.State, b.o.Now().UTC().Truncate(time.Millisecond))
	if err != nil {
		return nil, err
	}
	if told := evidence.State; told != nil && !bytes.Equal(told.Digest, known.Digest) {
		b.o.Log.Warn("a machine serves an older state than the one that is known, or another one", "machine", req.Machine, "remote", remote, "number", told.Sequence, "known", known.Sequence, "since", known.Since)
	}
	return &stateAnswer{known}, nil
}

// shown gives the evidence of a request if it is good, and of the machine that is admitted
// under the name.
func (b *Broker) shown(key string, spki []byte, req releaseRequest) (*attest.Evidence, error) {
	policy, err := b.policy()
	if err != nil {
		return nil, err
	}
	evidence, err := b.appraise(policy, key, spki, req, false)
	if err != nil {
		return nil, err
	}
	if err := b.o.Vault.has(req.Machine); err != nil {
		return nil, err
	}
	return evidence, b.o.Vault.isAdmitted(req.Machine, evidence, &policy.Policy)
}

// has says whether there is a credential for the machine.
func (v *Vault) has(machine string) error {
	if !machineName.MatchString(machine) {
		return fault.Errorf(fault.BrokerMachine, "there is no credential for a machine of that name")
	}
	there, err := exists(v.path(credentialDir, machine+credentialSuffix))
	if err == nil && !there {
		err = fault.Errorf(fault.BrokerMachine, "there is no credential for a machine of that name")
	}
	return err
}

// stateDir has the newest state of each machine.
const (
	stateDir    = "states"
	stateSuffix = ".json"
)

// know keeps a state unless the one that is known is as new, and gives the newest; nil if
// there is none. Told may be nil.
func (v *Vault) know(machine string, told *attest.State, now time.Time) (*KnownState, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	file := v.path(stateDir, machine+stateSuffix)
	var known *KnownState
	text, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		known = &KnownState{}
		if err := decode(text, known); err != nil {
			return nil, err
		}
	}
	if told == nil || known != nil && told.Sequence <= known.Sequence {
		return known, nil
	}
	known = &KnownState{*told, now}
	if text, err = json.Marshal(known); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(v.path(stateDir), 0o700); err != nil {
		return nil, err
	}
	return known, writeFile(file, text)
}
