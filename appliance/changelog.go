package appliance

import "context"

// ChangeLog keeps the changes of one installation in their order, for the appliances of
// a fleet (docs/adr/0015-fleet.md). It is not trusted: bodies are sealed, and a body
// names the one before.
type ChangeLog interface {
	// Append adds the change with that number; fault.Changed if there is one with it.
	Append(ctx context.Context, number uint64, body []byte) error
	// Change gives the change with that number; fault.NotFound.
	Change(ctx context.Context, number uint64) ([]byte, error)
}
