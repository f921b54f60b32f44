package appliance

import "context"

// Some work is for one node of a fleet: deleting keys that are due, destroying what is left
// in the token. Its node is in a sealed row with a token that rises each time that another
// takes it over. Each statement of the work carries the token, and the store refuses it in
// the statement's own transaction if the row has another one. So the log of changes has no
// change of an earlier leader after a later one took over.

// LeaderRow says which node leads.
type LeaderRow struct {
	Node string
	// Token rises by one with each takeover.
	Token uint64
	Seal  []byte
}

// Binding names the row with all that it says.
func (r *LeaderRow) Binding() Binding {
	return Binding{Purpose: "leader", Fields: []string{r.Node, bindUint(r.Token)}}
}

type fenceKey struct{}

// Fenced gives a context in which the store makes changes only while the leader's row has
// that token; fault.FleetFenced otherwise.
func Fenced(ctx context.Context, token uint64) context.Context {
	return context.WithValue(ctx, fenceKey{}, token)
}

// Fence gives the token that changes in the context need; false if they need none.
func Fence(ctx context.Context) (token uint64, fenced bool) {
	token, fenced = ctx.Value(fenceKey{}).(uint64)
	return token, fenced
}
