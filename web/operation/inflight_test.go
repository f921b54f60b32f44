package operation

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// TestStoppedMeanwhile: an operation whose caller is stopped, or loses the role, after
// the headers of the request came is not done, whether they are stopped while the body is
// on its way or while the operation waits for its turn; and that is on record. Asked of
// each operation that changes something.
func TestStoppedMeanwhile(t *testing.T) {
	viewer := admin
	viewer.Role = identity.RoleViewer
	unverified := admin
	unverified.Unverified = true
	unknown := errors.New("the disk does not answer")
	for _, r := range Table() {
		if !r.Mutates() {
			continue
		}
		for name, stop := range map[string]struct {
			now  identity.Principal
			err  error
			want fault.Code
		}{
			"stopped":    {identity.Principal{}, identity.ErrProof, fault.Unauthenticated},
			"lower role": {viewer, nil, fault.Forbidden},
			"locked":     {unverified, nil, fault.Locked},
			"not known":  {identity.Principal{}, unknown, fault.Internal},
			"as before":  {admin, nil, ""},
		} {
			if name == "lower role" && identity.RoleViewer.May(r.Capability) || name == "locked" && r.WhileLocked {
				stop.want = ""
			}
			for _, when := range []string{"body", "turn"} {
				if when == "turn" && (!r.Changes() || r.Urgency == Independent) {
					continue
				}
				p, log := quiet()
				var stopped atomic.Bool
				p.Still = func(_ context.Context, was identity.Principal) (identity.Principal, error) {
					if stopped.Load() {
						return stop.now, stop.err
					}
					return was, nil
				}
				done := false
				stub := *r
				stub.subject = func(context.Context, *Caller, any) any { return nil }
				stub.run = func(context.Context, *Caller, any) (any, error) {
					done = true
					return filled(r.answer).Interface(), nil
				}
				in, read := input(r), make(chan struct{})
				q := Request{Path: r.fields.of(in), Read: func() (any, error) { stopped.Store(when == "body"); close(read); return in, nil }}
				free := func() {}
				if when == "turn" {
					free = p.turns.take(r.Urgency)
				}
				ended := make(chan error)
				go func() {
					_, err := stub.Perform(t.Context(), p.As(admin, "192.0.2.7:1"), q)
					ended <- err
				}()
				<-read
				if when == "turn" {
					stopped.Store(true)
				}
				free()
				err := <-ended
				if fault.CodeOf(err) != stop.want || done != (stop.want == "") {
					t.Errorf("%s, %s while the %s is waited for: done %t, %v, want %q", r.ID, name, when, done, err, stop.want)
				}
				if last := log.records[len(log.records)-1]; (last.Result == audit.Denied) != (stop.want != "") {
					t.Errorf("%s, %s while the %s is waited for: recorded %+v", r.ID, name, when, last)
				}
			}
		}
	}
}
