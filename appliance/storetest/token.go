package storetest

import (
	"testing"
	"time"

	"holdfast/appliance/approval"
	"holdfast/appliance/identity"
)

// testForgottenTokens: tokens that ended long ago go when another is made, and no others.
func testForgottenTokens(t *testing.T, s Engine) {
	ctx := t.Context()
	now := At(1)
	token := func(n int, created time.Time, expires, revoked time.Time) *identity.Token {
		id := ID(n)
		return &identity.Token{ID: id, Name: id[:8] + id[24:], Role: identity.RoleViewer, Digest: []byte(id), CreatedAt: created, ExpiresAt: expires, RevokedAt: revoked, Seal: []byte(id)}
	}
	const day = 24 * time.Hour
	long := now.Add(-identity.TokenRetention)
	kept := []*identity.Token{
		token(1, now.Add(-2*day), now.Add(day), time.Time{}),                 // good
		token(2, now.Add(-2*day), now.Add(-day), time.Time{}),                // expired
		token(3, long, now.Add(day), now.Add(-day)),                          // revoked
		token(4, long.Add(-day), long.Add(time.Millisecond), time.Time{}),    // not long enough
		token(5, long.Add(-day), now.Add(day), long.Add(2*time.Millisecond)), // revoked, not long enough
		token(6, long.Add(-20*day), now.Add(day), time.Time{}),               // old, and good
	}
	dropped := []*identity.Token{
		token(7, long.Add(-day), long, time.Time{}),
		token(8, long.Add(-day), now.Add(day), long),
	}
	for _, k := range append(kept, dropped...) {
		if k.Forgotten(now) != (k.ID == ID(7) || k.ID == ID(8)) {
			t.Errorf("%s: forgotten %t", k.ID, k.Forgotten(now))
		}
		early := *k
		early.CreatedAt = long.Add(-40 * day) // so that none makes another go
		Must(t, s.CreateToken(ctx, &early))
	}
	Equal(t, len(Got(s.Tokens(ctx))(t)), 8)
	Must(t, s.CreateToken(ctx, token(9, now, now.Add(day), time.Time{})))
	left := map[string]bool{}
	for _, k := range Got(s.Tokens(ctx))(t) {
		left[k.ID] = true
	}
	for _, k := range append(kept, token(9, now, now, now)) {
		Equal(t, left[k.ID], true)
	}
	for _, k := range dropped {
		Equal(t, left[k.ID], false)
	}
}

// testCountApprovals: each request counts once, by the state that it is in: what has expired neither
// waits nor is approved any more.
func testCountApprovals(t *testing.T, s Engine) {
	ctx := t.Context()
	for i, r := range []approval.Request{
		{State: approval.Pending, ExpiresAt: At(30)}, {State: approval.Pending, ExpiresAt: At(20)}, {State: approval.Approved, ExpiresAt: At(30)}, {State: approval.Rejected, ExpiresAt: At(30)},
	} {
		r.ID, r.CreatedAt, r.Seal = ID(i+1), At(1), []byte("seal")
		Must(t, s.CreateApproval(ctx, &r))
	}
	for at, want := range map[int]map[approval.State]int{
		10: {approval.Pending: 2, approval.Approved: 1, approval.Rejected: 1},
		20: {approval.Pending: 1, approval.Expired: 1, approval.Approved: 1, approval.Rejected: 1},
		30: {approval.Expired: 3, approval.Rejected: 1},
	} {
		Equal(t, Got(s.CountApprovals(ctx, At(at)))(t), want)
	}
}
