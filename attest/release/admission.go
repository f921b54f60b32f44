package release

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"

	"holdfast/appliance/fault"
	"holdfast/attest"
	"holdfast/attest/ec2"
	"holdfast/attest/nitro"
)

// identityOf gives who the machine is, by evidence that was found good.
func identityOf(e *attest.Evidence) (id Identity, err error) {
	if e.Nitro != nil {
		d, err := nitro.Parse(e.Nitro)
		if err != nil {
			return id, err
		}
		id.Instance = d.Instance()
	}
	if e.TPM != nil {
		d := sha256.Sum256(e.TPM.AK)
		id.AK = hex.EncodeToString(d[:])
		id.Volume = e.TPM.StateVolume().String()
	}
	return id, nil
}

// tellInstance has the record say what EC2 says of the machine whose evidence was found good
// under the policy, if the policy asks.
func (r *Record) tellInstance(e *attest.Evidence, policy *attest.Policy) error {
	if policy.Instance == nil {
		return nil
	}
	d, err := ec2.Parse(e.Instance)
	if err != nil {
		return err
	}
	r.Instance, r.Owner = &d.Instance, hex.EncodeToString(e.OwnerDigest)
	return nil
}

// byRule says why the policy's rule lets a new machine in; it is the record's reason.
func (r *Record) byRule() string {
	says := fmt.Sprintf("admitted by the policy's rule: account %s, Region %s, image %s", r.Instance.Account, r.Instance.Region, r.Instance.Image)
	if r.Owner != "" {
		says += ", owner " + r.Owner
	}
	return says
}

// differs says why the machine is not the one that was admitted; nil if it is.
func (a *Admission) differs(id Identity) error {
	for _, p := range []struct {
		code             fault.Code
		what, has, wants string
	}{
		{fault.BrokerInstance, "the EC2 instance", id.Instance, a.Instance},
		{fault.BrokerInstance, "the TPM's attestation key, SHA-256", id.AK, a.AK},
		{fault.BrokerVolume, "the state volume", id.Volume, a.Volume},
	} {
		if p.wants != "" && p.has != p.wants {
			return fault.Errorf(p.code, "%s is %s, and %s was admitted", p.what, orNone(p.has), p.wants)
		}
	}
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "not in the evidence"
	}
	return s
}

// with gives the admission with what it leaves open.
func (a Admission) with(id Identity) Admission {
	for _, p := range []struct {
		into *string
		from string
	}{{&a.Instance, id.Instance}, {&a.AK, id.AK}, {&a.Volume, id.Volume}} {
		if *p.into == "" {
			*p.into = p.from
		}
	}
	a.First = false
	return a
}

// rules says whether the policy admits new machines that meet it without a person.
func rules(policy *attest.Policy) bool { return policy.Instance != nil && policy.Instance.Admit }

// admits says whether the machine may have what is kept under the name: a person has
// admitted it, or the first that asks, or the policy names its instance or has a rule that
// it meets. It gives what the admission becomes with a release. Errors: fault.BrokerInstance,
// fault.BrokerVolume.
func (l *ledger) admits(machine string, id Identity, policy *attest.Policy) (becomes Admission, err error) {
	a, known := l.head.State.Machines[machine]
	switch {
	case known && a.pinned():
		err = a.differs(id)
	case known && a.First, id.Instance != "" && slices.Contains(policy.Nitro.Instances, id.Instance):
	case !known && id.Instance != "" && rules(policy):
	default:
		err = fault.Errorf(fault.BrokerInstance, "nobody has admitted a machine of that name, and the policy neither names this instance nor admits new machines by a rule")
	}
	return a.with(id), err
}

var instanceID = regexp.MustCompile(`^i-[0-9a-f]{8,17}$`)

// Admit says which machine gets what is kept under a name, in place of whom it was. It must
// name an instance, or be for the first.
func (v *Vault) Admit(machine string, a Admission) error {
	switch {
	case a.Instance != "" && !instanceID.MatchString(a.Instance):
		return fmt.Errorf("%q is not the ID of an EC2 instance, such as i-0123456789abcdef0", a.Instance)
	case a.First == a.pinned():
		return errors.New("say which machine is admitted: one, or the first")
	}
	return v.locked(func(l *ledger) error { return l.admit(machine, a, "") })
}

func (l *ledger) admit(machine string, a Admission, reason string) error {
	if err := l.v.has(machine); err != nil {
		return err
	}
	r := l.v.done(Admitted, machine)
	r.Admission, r.Reason = &a, reason
	_, err := l.append(r)
	return err
}

// AdmitRequest admits the machine that was refused as another one, by the number of the
// record. It gives which machine that is.
func (v *Vault) AdmitRequest(machine string, number uint64) (id Identity, err error) {
	return id, v.locked(func(l *ledger) error {
		r, err := l.find(number)
		if err != nil {
			return err
		}
		if r.Machine != machine || r.Result != Refused || r.Identity == nil {
			return fmt.Errorf("the record %d is not of a machine that asked as %q and was refused because it is another one: find it with holdfast broker log", number, machine)
		}
		id = *r.Identity
		return l.admit(machine, Admission{Identity: id}, fmt.Sprintf("as it asked in record %d", number))
	})
}

// find gives a record of the log's file.
func (l *ledger) find(number uint64) (*Record, error) {
	f, err := os.Open(l.v.path(logFile))
	if err != nil {
		return nil, fmt.Errorf("broker: log: %w", err)
	}
	defer f.Close()
	in := bufio.NewReader(f)
	for {
		line, err := readLine(in)
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("the log has no record %d: find it with holdfast broker log", number)
		}
		if err != nil {
			return nil, fmt.Errorf("broker: log: %w", err)
		}
		r := &Record{}
		if err := openLine(ofRecord, line, nil, r); err != nil {
			return nil, fmt.Errorf("broker: log: %w", err)
		}
		if r.Number == number {
			return r, nil
		}
	}
}

// isAdmitted says why the machine may not tell its state under the name.
func (v *Vault) isAdmitted(machine string, evidence *attest.Evidence, policy *attest.Policy) error {
	id, err := identityOf(evidence)
	if err != nil {
		return err
	}
	return v.locked(func(l *ledger) error {
		_, err := l.admits(machine, id, policy)
		return err
	})
}
