package boot

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest/release"
)

// askWithinHistory bounds the question for a history, during which a person waits.
const askWithinHistory = 10 * time.Second

// Releases asks the broker what it has on record about this machine. Errors: fault.Conflict
// where no broker releases the credential, or the machine cannot show itself yet; those of
// [release.FromBroker.History].
func (b *Boot) Releases(ctx context.Context) (*progress.Releases, error) {
	r, ok := b.o.Release.(*BrokerRelease)
	if !ok {
		return nil, fault.Errorf(fault.Conflict, "no broker releases the PIN of this machine: its own TPM does, and the boot steps say when (holdfast boot steps)")
	}
	b.mu.Lock()
	c := b.collector
	b.mu.Unlock()
	if c == nil {
		return nil, fault.Errorf(fault.Conflict, "this machine has no evidence to show the broker; holdfast status says why")
	}
	h, err := (&release.FromBroker{URL: r.URL, Pin: r.Pin, Machine: r.Machine, Collect: c.Collect, Timeout: askWithinHistory}).History(ctx)
	if err != nil {
		return nil, err
	}
	return releasesOf(h)
}

func releasesOf(h *release.History) (*progress.Releases, error) {
	der, err := x509.MarshalPKIXPublicKey(h.LogKey)
	if err != nil {
		return nil, fault.Wrapf(fault.BrokerUnreachable, err, "the key of the broker's log cannot be read")
	}
	out := &progress.Releases{LogKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), More: h.More, Records: []progress.ReleaseRecord{}}
	for i := range h.Records {
		r := &h.Records[len(h.Records)-1-i]
		one := progress.ReleaseRecord{Number: r.Number, Time: r.Time, Result: r.Result, Code: r.Code, Reason: r.Reason, By: r.By, Policy: r.PolicyVersion, Evidence: r.EvidenceDigest}
		if r.By == "" {
			one.Remote = r.Remote
		}
		if r.Identity != nil {
			one.Instance = r.Identity.Instance
		}
		out.Records = append(out.Records, one)
	}
	return out, nil
}
