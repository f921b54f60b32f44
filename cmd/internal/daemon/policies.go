package daemon

import (
	"context"
	"encoding/hex"
	"fmt"

	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot"
	"holdfast/appliance/machine/policies"
	"holdfast/attest"
	"holdfast/web/operation"
)

// newPolicies gives the policies of this machine: the image's, and those that came in.
func (d *Daemon) newPolicies() *policies.Store {
	cfg := d.o.Config
	s := &policies.Store{Folder: cfg.Policies(), Image: cfg.Attestation.Policy, Key: cfg.Attestation.PolicyKey,
		Remembered: func(ctx context.Context) (attest.SignedID, error) {
			highest, _, _, err := d.machine.PolicySeal(ctx)
			return highest.Policy, err
		}, Write: boot.WriteFile}
	if cfg.Release.Method != config.Broker {
		s.SealKey = cfg.Release.SealKey
	}
	if d.whose.File != nil {
		s.OwnerKey = d.whose.File.SealKey
	}
	return s
}

// appraisal implements [operation.Policies].
type appraisal struct{ d *Daemon }

func (a appraisal) AppraisalPolicy(context.Context) (operation.AppraisalPolicy, error) {
	n, err := a.d.policies.Newest()
	if err != nil {
		return operation.AppraisalPolicy{}, boot.UnusablePolicy(err)
	}
	p := operation.AppraisalPolicy{Name: n.Name, Version: n.Version, SHA256: hex.EncodeToString(n.Digest), Signer: n.Signer, Unproven: n.Unproven,
		Installed: n.Installed, InForce: a.d.appraisedBy().Policy.Is(n.ID()), Admits: n.Admits()}
	p.Authorizations, p.Approvals = a.d.policies.Count()
	if f := a.d.policies.Ignored(); f != nil {
		p.Ignored = f.Error()
	}
	return p, nil
}

// given are the files of a request.
func given(in operation.PolicyFiles) policies.Given {
	g := policies.Given{Policy: []byte(in.Policy)}
	if in.Authorizations != "" {
		g.Authorizations = []byte(in.Authorizations)
	}
	if in.Approvals != "" {
		g.Approvals = []byte(in.Approvals)
	}
	return g
}

// lasts says why nothing would last that is kept now; nil if it would.
func (a appraisal) lasts() error {
	if a.d.closed() && a.d.o.Config.Launch.Dir == "" {
		return fault.Errorf(fault.Conflict, "the state volume is not open (%s), and a policy would not last; open it first", a.d.volume.Codes())
	}
	return nil
}

func (a appraisal) CheckPolicy(ctx context.Context, in operation.PolicyFiles) ([]string, error) {
	if err := a.lasts(); err != nil {
		return nil, err
	}
	next, err := a.d.policies.Check(ctx, given(in))
	if err != nil {
		return nil, err
	}
	return append([]string{fmt.Sprintf("%q, version %d, signed by %s, SHA-256 %x", next.Name, next.Version, next.Signer, next.Digest)}, next.Admits()...), nil
}

func (a appraisal) InstallPolicy(ctx context.Context, in operation.PolicyFiles) error {
	if err := a.lasts(); err != nil {
		return err
	}
	next, err := a.d.policies.Install(ctx, given(in))
	if err != nil {
		return err
	}
	a.d.o.Log.Info("a policy was installed", "policy", next.Name, "version", next.Version, "sha256", hex.EncodeToString(next.Digest), "signer", next.Signer)
	a.d.boot.Renew()
	return nil
}
