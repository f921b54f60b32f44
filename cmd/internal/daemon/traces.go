package daemon

import "context"

// traces are what may say that this machine had an installation, apart from the
// database and the HSM.
func (d *Daemon) traces() []func(ctx context.Context) (string, error) {
	return []func(ctx context.Context) (string, error){d.audit.Trace, d.anchorTrace}
}
