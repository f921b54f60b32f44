package operation

import (
	"context"
	"net/http"

	"holdfast/appliance"
	"holdfast/appliance/identity"
)

// Blocks are the operations of the domain on blocks.
type Blocks interface {
	Block(ctx context.Context, t appliance.BlockTarget, reason, by string) (appliance.Block, error)
	// CheckBlock gives the error that Block would, and changes nothing.
	CheckBlock(ctx context.Context, t appliance.BlockTarget, reason string) error
	Unblock(ctx context.Context, t appliance.BlockTarget) error
	// CheckUnblock gives the error that Unblock would, and changes nothing.
	CheckUnblock(ctx context.Context, t appliance.BlockTarget) error
}

// NewBlock asks for a key, a key store or everything to be out of service.
type NewBlock struct {
	appliance.BlockTarget
	Reason string `json:"reason" jsonschema:"Why it is blocked: 1 to 256 printable characters. It is shown and recorded." example:"incident 4711" shortest:"1" longest:"256"`
}

// Blocked is what is out of service.
type Blocked struct {
	appliance.BlockTarget
	appliance.Block
}

// targetWords are the words of an operation by its target.
type targetWords struct{ everything, keyStore, key string }

var (
	blockWords   = targetWords{"Block everything", "Block key store", "Block key"}
	unblockWords = targetWords{"Unblock everything", "Unblock key store", "Unblock key"}
)

func (w targetWords) of(t appliance.BlockTarget) string {
	switch {
	case t.KeyID != "":
		return w.key
	case t.KeyStore != "":
		return w.keyStore
	}
	return w.everything
}

// The operations on blocks. They are about their target whatever else has changed
// of it, so they have no subject to compare: the record has target and reason.
var (
	Block = define(Operation[NewBlock, Blocked]{
		Route: Route{ID: "block", Method: http.MethodPost, Path: "/block", Absent: true, Capability: identity.ManageKeys, Effects: StopsService, WhileLocked: true, Urgency: Urgent,
			Words: "Block", Variants: []string{blockWords.everything, blockWords.keyStore, blockWords.key}, Summary: "Take a key, a key store, or everything out of service at once"},
		Subject: apart[NewBlock],
		Named:   func(in NewBlock) (string, string) { return in.KeyStore, in.KeyID },
		Check: func(ctx context.Context, c *Caller, in NewBlock) error {
			return c.Domain.CheckBlock(ctx, in.BlockTarget, in.Reason)
		},
		Variant: func(in NewBlock) string { return blockWords.of(in.BlockTarget) },
		Run: func(ctx context.Context, c *Caller, in NewBlock) (Blocked, error) {
			b, err := c.Domain.Block(ctx, in.BlockTarget, in.Reason, c.Who.Name)
			return Blocked{in.BlockTarget, b}, err
		},
	})
	Unblock = define(Operation[appliance.BlockTarget, appliance.BlockTarget]{
		Route: Route{ID: "unblock", Method: http.MethodPost, Path: "/unblock", Absent: true, Capability: identity.ManageKeys, Effects: EndsBlock, Urgency: Ordinary,
			Words: "Unblock", Variants: []string{unblockWords.everything, unblockWords.keyStore, unblockWords.key}, Summary: "Take a block back"},
		Subject: apart[appliance.BlockTarget],
		Named:   func(in appliance.BlockTarget) (string, string) { return in.KeyStore, in.KeyID },
		Variant: unblockWords.of,
		Check: func(ctx context.Context, c *Caller, in appliance.BlockTarget) error {
			return c.Domain.CheckUnblock(ctx, in)
		},
		Run: func(ctx context.Context, c *Caller, in appliance.BlockTarget) (appliance.BlockTarget, error) {
			return in, c.Domain.Unblock(ctx, in)
		},
	})
)
