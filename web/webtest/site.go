package webtest

import (
	"context"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/instance"
	"holdfast/web/operation"
)

// Site is a place that is as it is said to be.
type Site struct {
	// Release and Effective are what Version and Configuration give, Endpoint what
	// XKSEndpoint does.
	Release, Effective, Endpoint string
	On                           instance.Identity
	Served                       operation.Certificate
}

// Version gives Release.
func (s Site) Version() string { return s.Release }

// Configuration gives Effective.
func (s Site) Configuration() string { return s.Effective }

// Options gives none.
func (s Site) Options() []operation.Option { return []operation.Option{} }

// XKSEndpoint gives Endpoint.
func (s Site) XKSEndpoint() string { return s.Endpoint }

// Instance gives On.
func (s Site) Instance() *instance.Identity { return &s.On }

// Certificate gives Served.
func (s Site) Certificate() (operation.Certificate, error) { return s.Served, nil }

// RequestCertificate gives a text that is no request.
func (s Site) RequestCertificate(context.Context, []string) (string, error) { return "request", nil }

// InstallCertificate refuses any.
func (s Site) InstallCertificate(context.Context, string) (operation.Certificate, error) {
	return operation.Certificate{}, fault.Errorf(fault.Invalid, "no certificate")
}

// ShareCertificate refuses any.
func (s Site) ShareCertificate(context.Context, string, []byte) (operation.Certificate, error) {
	return operation.Certificate{}, fault.Errorf(fault.Invalid, "no certificate")
}

// UnshareCertificate says that none is shared.
func (s Site) UnshareCertificate(context.Context) (operation.Certificate, error) {
	return operation.Certificate{}, fault.Errorf(fault.NotFound, "no certificate is shared")
}
