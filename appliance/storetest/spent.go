package storetest

import (
	"testing"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// testSpent: what is used up stays so until it would have expired anyhow.
func testSpent(t *testing.T, s Engine) {
	ctx := t.Context()
	Equal(t, Got(s.Spent(ctx, "a"))(t), false)
	Must(t, s.Spend(ctx, identity.Spent{ID: "a", At: At(1), ExpiresAt: At(10)}))
	Must(t, s.Spend(ctx, identity.Spent{ID: "b", At: At(9), ExpiresAt: At(20)}))
	Wants(t, s.Spend(ctx, identity.Spent{ID: "a", At: At(9), ExpiresAt: At(30)}), fault.Exists, "a")
	Equal(t, Got(s.Spent(ctx, "a"))(t), true)
	Must(t, s.Spend(ctx, identity.Spent{ID: "c", At: At(10), ExpiresAt: At(20)}))
	Equal(t, Got(s.Spent(ctx, "a"))(t), false)
	Equal(t, Got(s.Spent(ctx, "b"))(t), true)
}
