package operation

import (
	"context"
	"net/http"

	"holdfast/appliance"
	"holdfast/appliance/identity"
)

// Blocks are the operations of the domain on blocks.
type Blocks interface {
	Block(ctx context.Context, t appliance.BlockTarget, reason string) (appliance.Block, error)
	// CheckBlock gives the error that Block would, and changes nothing.
	CheckBlock(ctx context.Context, t appliance.BlockTarget, reason string) error
	Unblock(ctx context.Context, t appliance.BlockTarget) error
	// CheckUnblock gives the error that Unblock would, and changes nothing.
	CheckUnblock(ctx context.Context, t appliance.BlockTarget) error
}

// NewBlock asks for a key, a key store or everything to be out of service.
type NewBlock struct {
	appliance.BlockTarget
	Reason string `json:"reason"`
}

// Blocked is what is out of service.
type Blocked struct {
	appliance.BlockTarget
	appliance.Block
}

// The operations on blocks. They are about their target whatever else has changed
// of it, so they have no subject to compare: the record has target and reason.
var (
	Block = define(Operation[NewBlock, Blocked]{
		Route: Route{ID: "block", Method: http.MethodPost, Path: "/block", Capability: identity.ManageKeys, Effects: StopsService, WhileLocked: true, Urgency: Urgent,
			Summary: "Take a key, a key store, or everything out of service at once"},
		Subject: apart[NewBlock],
		Named:   func(in NewBlock) (string, string) { return in.KeyStore, in.KeyID },
		Check: func(ctx context.Context, c *Caller, in NewBlock) error {
			return c.Domain.CheckBlock(ctx, in.BlockTarget, in.Reason)
		},
		Run: func(ctx context.Context, c *Caller, in NewBlock) (Blocked, error) {
			b, err := c.Domain.Block(ctx, in.BlockTarget, in.Reason)
			return Blocked{in.BlockTarget, b}, err
		},
	})
	Unblock = define(Operation[appliance.BlockTarget, appliance.BlockTarget]{
		Route: Route{ID: "unblock", Method: http.MethodPost, Path: "/unblock", Capability: identity.ManageKeys, Effects: EndsBlock, Urgency: Ordinary,
			Summary: "Take a block back"},
		Subject: apart[appliance.BlockTarget],
		Named:   func(in appliance.BlockTarget) (string, string) { return in.KeyStore, in.KeyID },
		Check: func(ctx context.Context, c *Caller, in appliance.BlockTarget) error {
			return c.Domain.CheckUnblock(ctx, in)
		},
		Run: func(ctx context.Context, c *Caller, in appliance.BlockTarget) (appliance.BlockTarget, error) {
			return in, c.Domain.Unblock(ctx, in)
		},
	})
)
