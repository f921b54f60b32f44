package appliance

import (
	"context"
	"time"
)

// ProofFunc is a kind of proof that only tests have. A kind that ships is a type of
// this package with such a method, in a file of its own.
type ProofFunc func(e *Endpoint) (credential string, err error)

func (f ProofFunc) prove(e *Endpoint) (string, error) { return f(e) }

// SetLookWithin sets how long requests wait for changes of other nodes, for machines that are
// slower than those that serve.
func (s *Service) SetLookWithin(d time.Duration) { s.newest.within = d }

// KeepSnapshot does what Run does each minute.
func (l *Lifecycle) KeepSnapshot(ctx context.Context) { l.snapshot(ctx) }
