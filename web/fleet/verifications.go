package fleet

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/appliance/fault"
	"holdfast/web/operation"
)

// The kinds of questions that have a node verify its audit log, and that ask what it found.
// A question to begin does nothing where a verification runs, so one whose answer is lost can
// be asked again.
const (
	askVerify       = "audit verify"
	askVerification = "audit verification"
)

const (
	// verificationTime is how long all nodes are waited for: somebody looks at a page, which
	// loads itself again.
	verificationTime = time.Second
	// verifyTime is the same where they begin: that is asked once.
	verifyTime = 3 * time.Second
)

// maxBy bounds the name in which a log is verified.
const maxBy = 128

// Verifications have the nodes of a fleet verify their audit logs. They implement
// [operation.VerificationPeers].
type Verifications struct{ logs *Logs }

var _ operation.VerificationPeers = (*Verifications)(nil)

// NewVerifications makes them, of the nodes whose logs those are.
func NewVerifications(logs *Logs) *Verifications { return &Verifications{logs} }

// Verifier verifies the log of this node; [*operation.Performer] does.
type Verifier interface {
	Verify(by string) operation.LogVerification
	Verification() operation.LogVerification
}

// Give has other nodes' questions answered by a verifier.
func (v *Verifications) Give(own Verifier) {
	v.logs.calls.On(askVerify, logsAtOnce, answering(func(_ context.Context, by string) ([]byte, error) {
		return json.Marshal(own.Verify(by[:min(len(by), maxBy)]))
	}))
	v.logs.calls.On(askVerification, logsAtOnce, answering(func(context.Context, struct{}) ([]byte, error) {
		return json.Marshal(own.Verification())
	}))
}

// Verify implements [operation.VerificationPeers].
func (v *Verifications) Verify(ctx context.Context, by string) []operation.LogVerification {
	return v.all(ctx, askVerify, by, verifyTime)
}

// Verifications implements [operation.VerificationPeers].
func (v *Verifications) Verifications(ctx context.Context) []operation.LogVerification {
	return v.all(ctx, askVerification, struct{}{}, verificationTime)
}

// all asks each other node, waits for at most so long, and gives the answers in the order of
// the nodes' IDs.
func (v *Verifications) all(ctx context.Context, kind string, in any, within time.Duration) (all []operation.LogVerification) {
	waiting, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, p := range v.logs.Peers() {
		id := p.Node()
		asking.Go(func() {
			said := operation.LogVerification{}
			text, err := ask(waiting, v.logs.calls, id, kind, in)
			if err == nil {
				if err = json.Unmarshal(text, &said); err != nil {
					err = wrong(id, err)
				}
			}
			if err != nil {
				told := fault.Answer(ctx, v.logs.log, "a node was asked about the verification of its audit log", err, "node", id)
				said = operation.LogVerification{Unknown: told.Message}
			}
			said.Node = id
			mu.Lock()
			defer mu.Unlock()
			all = append(all, said)
		})
	}
	asking.Wait()
	slices.SortFunc(all, func(a, b operation.LogVerification) int { return strings.Compare(a.Node, b.Node) })
	return all
}
