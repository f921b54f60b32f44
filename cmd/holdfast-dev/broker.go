package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/certificate"
	"holdfast/attest/release"
)

// machineName is that of the simulated machine at the broker.
const machineName = "holdfast-dev"

// broker is one that runs beside the appliance and has the PIN.
type broker struct {
	p        *platform
	log      *slog.Logger
	listener net.Listener
	pair     *tls.Certificate
}

// newBroker takes the broker's address, and points the configuration at it.
func (p *platform) newBroker(address string, c *config.Config, log *slog.Logger) (*broker, error) {
	cert, err := certificate.Load(c.XKS.Certificate, c.XKS.Key, time.Now, log)
	if err != nil {
		return nil, err
	}
	b := &broker{p: p, log: log}
	if b.pair, err = cert.Get(nil); err != nil {
		return nil, err
	}
	if b.listener, err = net.Listen("tcp", address); err != nil {
		return nil, fmt.Errorf("broker: %w; choose another address with --broker-addr", err)
	}
	c.Release.BrokerURL, c.Release.BrokerPin, c.Release.Machine = "https://"+b.listener.Addr().String(), release.Pin(b.pair.Leaf), machineName
	return b, nil
}

// start has the broker serve, under the officers' policy. stop ends it.
func (b *broker) start() (stop func(), err error) {
	vault, err := release.OpenVault(b.p.path("broker"), "")
	if err != nil {
		return nil, err
	}
	if fault.CodeOf(vault.CheckLog()) == fault.BrokerLog { // as of a folder that a former release made
		if _, err := vault.BeginLog(release.Beginning{Reason: "development", Now: time.Now()}); err != nil {
			return nil, err
		}
	}
	policy, key, err := b.p.officer.Policy()
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	pin, err := b.p.pin()
	if err != nil {
		return nil, err
	}
	defer clear(pin)
	if err := errors.Join(vault.SetPolicy(policy, key), vault.Add(machineName, pin), vault.Admit(machineName, release.Admission{First: true})); err != nil {
		return nil, err
	}
	server := release.NewBroker(release.BrokerOptions{Vault: vault, Log: b.log, Roots: b.p.machine.Roots()}).Server(*b.pair)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.ServeTLS(b.listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			b.log.Error("the broker ended", "error", err)
		}
	}()
	return func() {
		_ = server.Shutdown(context.Background()) // the appliance is gone: there are no requests
		<-ended
	}, nil
}
