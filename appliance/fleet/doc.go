// Package fleet is what the nodes of a fleet do together: they tell each other how far
// they are in the log of changes, they know by that how long they may serve, and they wait
// with a change until no node serves without it. docs/adr/0015-membership.md has the
// reasons and the proof.
//
// Four invariants carry it. T is the grace of the fleet ([Options.Grace]).
//
//  1. A word is true. What a node says of its own position is durable in its rows, and in
//     effect on its requests. It says so at the moment at which it answers.
//  2. Freshness. A node serves at a time t only if, for each other node in the sealed
//     membership of its rows, there is a moment s > t-T such that either that node has
//     answered a call that was sent at s with a position that is in the past of this
//     node's, or a reading of the ground that began at s has found nothing that this node
//     lacks. A node with no other in its rows needs the ground.
//  3. The ground. Before a node relies on the ground, the HSM's token says so. A node that
//     waits for a silent one first leaves its own position in the token, and then reads
//     who relies. So one of the two sees the other.
//  4. Membership. A node serves, and makes changes that count, only after the change by
//     which it joined was settled and another member has acknowledged it. The row of a
//     node that is removed stays until the removal was settled.
//
// From these follows what [Node.Settle] promises: when it says that a change is in effect
// everywhere, no node serves without it.
//
// A proof speaks for one node only: a node's answer says what this node knows, and nothing
// of what others know. So two nodes that hear each other and not the third do not keep
// each other fresh: both need the ground for the third.
//
// The database is not trusted with any of this. It may withhold changes, and say of nodes
// what it likes; then nodes stop, at the latest T after a change that they were not given.
//
// Times are those of a clock that goes on while the machine is suspended, and that nobody
// sets (CLOCK_BOOTTIME). Two of them may differ in their rate by the slack, one part in 60.
//
// The core has no goroutines and waits for nothing: [Node.Run] and [Node.Settle] drive it.
// Tests drive the same core by a scheduler of their own. It works under testing/synctest.
package fleet
