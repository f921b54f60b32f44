package fleet

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"holdfast/appliance/activity"
	"holdfast/appliance/fault"
	"holdfast/appliance/fleet"
	"holdfast/web/operation"
)

// askActivity is the kind of questions for what a node has counted of KMS's requests.
const askActivity = "requests counted"

const (
	// activityTime is how long a node is waited for: somebody looks at a page.
	activityTime = time.Second
	// activitiesAtOnce is how many such questions a node answers at once.
	activitiesAtOnce = 8
)

// Activities are what the nodes of a fleet have counted of KMS's requests. They implement
// [operation.ActivityPeers].
type Activities struct{ calls *fleet.Calls }

var _ operation.ActivityPeers = (*Activities)(nil)

// NewActivities makes them.
func NewActivities(calls *fleet.Calls) *Activities { return &Activities{calls} }

// Give has other nodes' questions answered by what a recorder has counted.
func (a *Activities) Give(own *activity.Recorder) {
	a.calls.On(askActivity, activitiesAtOnce, answering(func(_ context.Context, minutes int) ([]byte, error) {
		if minutes < 1 || minutes > activity.Minutes {
			return nil, fault.Errorf(fault.Invalid, "%d minutes are not counted", minutes)
		}
		return json.Marshal(own.Counts(minutes))
	}))
}

// Counts implements [operation.ActivityPeers].
func (a *Activities) Counts(ctx context.Context, minutes int) (all [][]activity.Count) {
	n := a.calls.Seat().Node()
	if n == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, activityTime)
	defer cancel()
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, id := range n.Others(true) {
		asking.Go(func() {
			var counts []activity.Count
			text, err := ask(ctx, a.calls, id, askActivity, minutes)
			if err != nil || json.Unmarshal(text, &counts) != nil || len(counts) > minutes {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, counts)
		})
	}
	asking.Wait()
	return all
}
