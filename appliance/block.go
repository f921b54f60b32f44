package appliance

import (
	"context"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"holdfast/appliance/fault"
)

// Block takes a key, a key store or everything out of service until somebody
// takes it back. The zero Block blocks nothing.
type Block struct {
	// Reason is 1 to 256 printable characters.
	Reason string    `json:"reason" jsonschema:"Why it is blocked."`
	Since  time.Time `json:"since" jsonschema:"When it was blocked."`
	// By is the name of the user or token that blocked it; empty on a block of before this was kept.
	By string `json:"by,omitempty" jsonschema:"The name of the user or token that blocked it. Absent on a block of before this was kept." example:"alice"`
}

// whom says by whom, as far as it is known.
func (b Block) whom() string {
	if b.By == "" {
		return ""
	}
	return " by " + b.By
}

// IsZero says whether it blocks nothing.
func (b Block) IsZero() bool { return b == Block{} }

// Binding names the block of everything, in the row of the installation.
func (b Block) Binding(installation string) Binding {
	return Binding{Purpose: "block", Fields: append([]string{installation}, b.fields()...)}
}

// fields are those of a binding: a block of before there was By is bound without.
func (b Block) fields() []string {
	f := []string{b.Reason, BindTime(b.Since)}
	if b.By != "" {
		f = append(f, b.By)
	}
	return f
}

// maxReason is the longest reason of a block, in bytes.
const maxReason = 256

// CheckReason says whether a reason is 1 to 256 printable characters: fault.Invalid.
func CheckReason(reason string) error {
	if reason == "" || len(reason) > maxReason || !utf8.ValidString(reason) ||
		strings.ContainsFunc(reason, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fault.Errorf(fault.Invalid, "reason: say why in 1 to %d printable characters", maxReason)
	}
	return nil
}

// BlockTarget says what to block: Everything, or what it names. The zero
// BlockTarget is not valid.
type BlockTarget struct {
	Everything bool `json:"everything,omitempty" jsonschema:"true for everything; leave key_store out then."`
	// KeyStore is a key store's name.
	KeyStore string `json:"key_store,omitempty" jsonschema:"The name of the key store." example:"payments" longest:"64"`
	// KeyID is an external key of it; if empty, the key store itself is meant.
	KeyID string `json:"key_id,omitempty" jsonschema:"An external key of the key store; leave it out for the key store itself." example:"payments-2026" longest:"128"`
}

// validate says what is wrong with the target: fault.Invalid.
func (t BlockTarget) validate() error {
	switch {
	case t.Everything && (t.KeyStore != "" || t.KeyID != ""):
		return fault.Errorf(fault.Invalid, "name either everything or a key store, not both")
	case !t.Everything && t.KeyStore == "" && t.KeyID != "":
		return fault.Errorf(fault.Invalid, "name the key store of the key %q", t.KeyID)
	case !t.Everything && t.KeyStore == "":
		return fault.Errorf(fault.Invalid, "name a key store, a key store and a key, or everything")
	}
	return nil
}

// blockedBy says that the target is not blocked: fault.Conflict.
func (t BlockTarget) blockedBy(b Block) error {
	if b.IsZero() {
		return fault.Errorf(fault.Conflict, "%s is not blocked", t)
	}
	return nil
}

// String names the target for people.
func (t BlockTarget) String() string {
	switch {
	case t.Everything:
		return "everything"
	case t.KeyID == "":
		return "key store " + t.KeyStore
	}
	return "key " + t.KeyID + " of key store " + t.KeyStore
}

// Block takes the target out of service, on behalf of by, the name of a user or token: after it returned, no request gets an answer
// that a key of it made, also none that was under way, and its unlocked keys are wiped. It lasts until
// Unblock, also over a restart. A block that is there gets the new reason. It
// waits neither for the HSM nor for another operation. Errors: fault.Invalid,
// fault.NotFound; fault.Locked while the appliance is locked and nothing serves.
func (a *Administration) Block(ctx context.Context, t BlockTarget, reason, by string) (Block, error) {
	if err := CheckReason(reason); err != nil {
		return Block{}, err
	}
	b := Block{Reason: reason, Since: a.stamp(), By: by}
	return b, a.setBlock(ctx, t, func(Block) (Block, error) { return b, nil })
}

// CheckBlock gives the error that Block would, and changes nothing.
func (a *Administration) CheckBlock(ctx context.Context, t BlockTarget, reason string) error {
	if err := CheckReason(reason); err != nil {
		return err
	}
	return a.tryBlock(ctx, t, func(Block) error { return nil })
}

// Unblock takes a block back. What is blocked besides remains so: a key whose
// key store is blocked as well does not serve yet. Errors: fault.Invalid,
// fault.NotFound; fault.Conflict if that target is not blocked.
func (a *Administration) Unblock(ctx context.Context, t BlockTarget) error {
	return a.setBlock(ctx, t, func(was Block) (Block, error) { return Block{}, t.blockedBy(was) })
}

// CheckUnblock gives the error that Unblock would, and changes nothing.
func (a *Administration) CheckUnblock(ctx context.Context, t BlockTarget) error {
	return a.tryBlock(ctx, t, t.blockedBy)
}

// tryBlock gives the error that a change of the target's block would have, and changes nothing.
func (a *Administration) tryBlock(ctx context.Context, t BlockTarget, check func(Block) error) error {
	if err := t.validate(); err != nil {
		return err
	}
	switch {
	case t.Everything:
		v, err := a.service.view()
		if err != nil {
			return err
		}
		return check(v.blocked)
	case t.KeyID == "":
		_, ks, err := a.keyStoreRow(ctx, t.KeyStore)
		if err != nil {
			return err
		}
		return check(ks.Blocked)
	}
	return a.tryKey(ctx, t.KeyStore, t.KeyID, func(k *ExternalKey) error { return check(k.Blocked) })
}

func (a *Administration) setBlock(ctx context.Context, t BlockTarget, change func(was Block) (Block, error)) error {
	if err := t.validate(); err != nil {
		return err
	}
	switch {
	case t.Everything:
		return a.blockAll(ctx, change)
	case t.KeyID == "":
		return a.changeKeyStore(ctx, t.KeyStore, func(ks *KeyStore) (err error) {
			ks.Blocked, err = change(ks.Blocked)
			return err
		})
	}
	_, err := a.replaceKey(ctx, t.KeyStore, t.KeyID, func(k *ExternalKey) (err error) {
		k.Blocked, err = change(k.Blocked)
		return err
	})
	return err
}

// blockAll changes the block of everything. When somebody else has changed it
// meanwhile, the change is made of what there is then: a block must not fail because of
// another one.
func (a *Administration) blockAll(ctx context.Context, change func(was Block) (Block, error)) error {
	a.blocking.Lock()
	defer a.blocking.Unlock()
	return retry(func() error { return a.tryBlockAll(ctx, change) })
}

func (a *Administration) tryBlockAll(ctx context.Context, change func(was Block) (Block, error)) error {
	v, err := a.service.view()
	if err != nil {
		return err
	}
	in, err := a.store.Installation(ctx)
	if err != nil {
		return err
	}
	was := in.BlockSeal
	// Also of a row that does not open: this is what makes it good again.
	if in.Blocked, err = change(v.blocked); err != nil {
		return err
	}
	if in.BlockSeal, err = v.ring.Seal(in.Blocked.Binding(in.ID), nil); err != nil {
		return err
	}
	return a.store.SetBlock(ctx, in.Blocked, in.BlockSeal, was)
}

// readBlock gives the block of everything. A row that does not open blocks.
func (s *Service) readBlock(ctx context.Context, ring Keyring) (Block, error) {
	in, err := s.store.Installation(ctx)
	if err != nil {
		return Block{}, err
	}
	if err := ring.Verify(in.Blocked.Binding(in.ID), in.BlockSeal); err != nil {
		s.log.Error("the row that says whether everything is blocked was edited by hand: everything is blocked until an administrator unblocks it", "error", err)
		return Block{Reason: "the stored state of the block does not match its seal", Since: s.stamp()}, nil
	}
	return in.Blocked, nil
}
