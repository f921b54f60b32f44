package webtest

import (
	"context"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/instance"
	"holdfast/web/operation"
)

// Site is a place that is as it is said to be.
type Site struct {
	// Release and Effective are what Version and Configuration give, Endpoint and Problem
	// what XKSEndpoint does.
	Release, Effective, Endpoint, Problem string
	On                                    instance.Identity
	Served                                operation.Certificate
}

// Version gives Release.
func (s Site) Version() string { return s.Release }

// Configuration gives Effective.
func (s Site) Configuration() string { return s.Effective }

// Options gives none.
func (s Site) Options() []operation.Option { return []operation.Option{} }

// XKSEndpoint gives Endpoint and Problem.
func (s Site) XKSEndpoint() (endpoint, problem string) { return s.Endpoint, s.Problem }

// Instance gives On.
func (s Site) Instance() *instance.Identity { return &s.On }

// Certificate gives Served.
func (s Site) Certificate() (operation.Certificate, error) { return s.Served, nil }

// RequestCertificate gives a text that is no request.
func (s Site) RequestCertificate(context.Context, []string) (string, error) { return "request", nil }

// InstallCertificate refuses any but the text "good".
func (s Site) InstallCertificate(ctx context.Context, chain string, accepted operation.Accepted) (operation.Certificate, error) {
	return s.Served, s.CheckInstall(ctx, chain, accepted)
}

// RestoreCertificate says that none is kept, unless Served has one.
func (s Site) RestoreCertificate(ctx context.Context) (operation.Certificate, error) {
	return s.Served, s.CheckRestore(ctx)
}

// CheckRestore says that none is kept, unless Served has one.
func (s Site) CheckRestore(context.Context) error {
	if s.Served.Previous == nil {
		return fault.Errorf(fault.NotFound, "no certificate of before is kept")
	}
	return nil
}

// CheckInstall refuses any but the text "good".
func (s Site) CheckInstall(_ context.Context, chain string, _ operation.Accepted) error {
	if chain != goodChain {
		return fault.Errorf(fault.Invalid, "certificate chain: give certificates in PEM and nothing else, the server's first")
	}
	return nil
}

// CheckShare refuses any but the text "good".
func (s Site) CheckShare(ctx context.Context, chain string, _ []byte, accepted operation.Accepted) error {
	return s.CheckInstall(ctx, chain, accepted)
}

// CheckUnshare says that none is shared, unless Served is.
func (s Site) CheckUnshare(context.Context) error {
	if !s.Served.Shared {
		return fault.Errorf(fault.NotFound, "no certificate is shared")
	}
	return nil
}

// goodChain is the chain that is not refused.
const goodChain = "good"

// ShareCertificate refuses any but the text "good".
func (s Site) ShareCertificate(ctx context.Context, chain string, key []byte, accepted operation.Accepted) (operation.Certificate, error) {
	return s.Served, s.CheckShare(ctx, chain, key, accepted)
}

// UnshareCertificate says that none is shared, unless Served is.
func (s Site) UnshareCertificate(ctx context.Context) (operation.Certificate, error) {
	return s.Served, s.CheckUnshare(ctx)
}

// Policies are of a machine that takes files of the text "good" alone.
type Policies struct{ Now operation.AppraisalPolicy }

// AppraisalPolicy gives Now.
func (p *Policies) AppraisalPolicy(context.Context) (operation.AppraisalPolicy, error) {
	return p.Now, nil
}

// CheckPolicy refuses any but the text "good".
func (p *Policies) CheckPolicy(_ context.Context, given operation.PolicyFiles) ([]string, error) {
	if given.Policy != goodChain {
		return nil, fault.Errorf(fault.PolicyFile, "policy: it is not a signed file")
	}
	if given.Authorizations != "" && given.Authorizations != goodChain {
		return nil, fault.Errorf(fault.SealFile, "authorizations: it is no file of them")
	}
	if given.Approvals != "" && given.Approvals != goodChain {
		return nil, fault.Errorf(fault.SealFile, "approvals: it is no file of them")
	}
	return []string{"It may run any code."}, nil
}

// Launches are of a machine that takes the document "good" alone.
type Launches struct{ Now operation.LaunchDetail }

// Launch gives Now.
func (l *Launches) Launch(context.Context) (operation.LaunchDetail, error) { return l.Now, nil }

// CheckLaunch refuses any but the text "good".
func (l *Launches) CheckLaunch(_ context.Context, document string) (operation.LaunchFile, error) {
	if document != goodChain {
		return operation.LaunchFile{}, fault.Errorf(fault.LaunchFile, "the document cannot be used")
	}
	return operation.LaunchFile{Version: 1, Sets: []string{"hsm.module is libpkcs11.so."}}, nil
}

// LookAtTokens finds none: what is there is tested with a real module (package daemon).
func (l *Launches) LookAtTokens(context.Context, string) ([]operation.LookedToken, error) {
	return []operation.LookedToken{{Module: "libpkcs11.so", Selected: "the token", Wrong: "there is none"}}, nil
}

// InstallLaunch has it be the next one, of a higher version each time.
func (l *Launches) InstallLaunch(ctx context.Context, document string) error {
	next, err := l.CheckLaunch(ctx, document)
	if err != nil {
		return err
	}
	if l.Now.Next != nil {
		next.Version = l.Now.Next.Version + 1
	}
	l.Now.Next = &next
	return nil
}

// InstallPolicy raises the version of Now, unless it is refused.
func (p *Policies) InstallPolicy(ctx context.Context, given operation.PolicyFiles) error {
	if _, err := p.CheckPolicy(ctx, given); err != nil {
		return err
	}
	p.Now.Version++
	p.Now.Installed = true
	return nil
}
