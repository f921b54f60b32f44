package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"strings"
	"time"

	"holdfast/appliance/config"
	"holdfast/appliance/machine/certificate"
	"holdfast/appliance/machine/instance"
)

// firstCertificate makes a certificate where the configuration names files in the
// state that are not there.
func firstCertificate(cfg *config.Config, log *slog.Logger) error {
	if x := cfg.XKS; !cfg.InState(x.Certificate) || !cfg.InState(x.Key) {
		return nil
	}
	c, err := certificate.MakeFirst(cfg.XKS.Certificate, cfg.XKS.Key, certificate.LocalNames(cfg.Admin.URL, cfg.XKS.URL), time.Now())
	if err != nil || c == nil {
		return err
	}
	sum := sha256.Sum256(c.Raw)
	log.Warn("there was no certificate: one was made that signs itself; AWS KMS needs one of a public authority, which the console's settings request and install",
		"names", strings.Join(certificate.Names(c), ","), "expires", c.NotAfter, "sha256", hex.EncodeToString(sum[:]))
	return nil
}

// setupFile asks for the hash in the file that the configuration names.
func (d *Daemon) setupFile(context.Context) *[sha256.Size]byte {
	return instance.ReadSetupFile(d.o.Config.Admin.SetupCode, d.o.Log)
}

// meet asks the metadata service for user data, says how the first administrator
// comes in, and asks who the instance is.
func (d *Daemon) meet(ctx context.Context) {
	m := instance.NewMetadata(d.o.Metadata)
	if !d.closed() {
		userData := func(ctx context.Context) *[sha256.Size]byte { return m.AskSetup(ctx, d.o.Log) }
		if err := d.welcome.Say(ctx, d.setupFile, userData); err != nil {
			d.o.Log.Error("there is no setup code", "error", err)
		}
	}
	if who := m.AskIdentity(ctx, d.o.Log); who != nil {
		d.site.instance.Store(who)
	}
}
