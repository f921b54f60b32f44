package hsm

import (
	"context"
	"errors"
	"fmt"
)

// errRenewed ends the use of a process in whose place another has come.
var errRenewed = errors.New("another process has come in its place")

// Renew opens the token in a new process, and ends the one before once the operations under
// way in it are done: what the vendor's library kept of keys goes with it. No operation
// fails of that. After an error, such as of a token that allows no more sessions, the process
// of before serves on.
func (t *Token) Renew(ctx context.Context) error {
	old, err := t.current()
	if err != nil {
		return err
	}
	p, err := t.connect(ctx)
	if err != nil {
		return fmt.Errorf("%s: its module process cannot be replaced: %w", t.cfg.name(), err)
	}
	t.mu.Lock()
	if t.process != old || !old.end(errRenewed) { // it was lost meanwhile, or the token closed
		t.mu.Unlock()
		p.kill()
		p.release()
		return nil
	}
	t.use(p)
	close(old.renewed)
	t.background.Go(func() {
		old.underWay.Wait()
		old.close()
		old.release()
	})
	t.mu.Unlock()
	t.cfg.Log.Info("the module's process was replaced", "token", t.cfg.name(), "process", p.PID())
	return nil
}

// Renew does it for each member that is open. It gives what has failed.
func (c *Cluster) Renew(ctx context.Context) error {
	var errs []error
	for _, m := range c.members {
		if t := m.current(); t != nil {
			errs = append(errs, t.Renew(ctx))
		}
	}
	return errors.Join(errs...)
}
