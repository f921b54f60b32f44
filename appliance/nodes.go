package appliance

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"holdfast/appliance/fault"
)

// NodeRow is a node as it is stored.
type NodeRow struct {
	Node
	Seal []byte
}

// Binding names the row with all that it says.
func (n *Node) Binding() Binding {
	return Binding{Purpose: "node", Fields: []string{n.ID, n.Address, string(n.State), BindTime(n.Joined)}}
}

// Nodes is the part that keeps the sealed rows of a fleet: who is in it, and who leads.
type Nodes struct {
	store FleetRows
	seals *Seals
}

// List gives all nodes. fault.Tampered if a row does not match its seal.
func (n *Nodes) List(ctx context.Context) ([]Node, error) {
	rows, err := n.store.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]Node, 0, len(rows))
	for i := range rows {
		if err := n.seals.Verify(ctx, rows[i].Binding(), rows[i].Seal); err != nil {
			return nil, err
		}
		list = append(list, rows[i].Node)
	}
	return list, nil
}

// PutNode makes a node, or changes it; was is what is there, nil for none. fault.Changed if
// there is something else; fault.Locked.
func (n *Nodes) PutNode(ctx context.Context, node Node, was *Node) error {
	node.Joined = node.Joined.UTC().Truncate(time.Millisecond) // as it is stored
	defer n.seals.Writing()()
	seal, err := n.seals.Seal(ctx, node.Binding())
	if err != nil {
		return err
	}
	row := &NodeRow{node, seal}
	if was == nil {
		err := n.store.CreateNode(ctx, row)
		if fault.CodeOf(err) == fault.Exists {
			err = fault.Wrapf(fault.Changed, err, "another operation has made the node %s at the same time", node.ID)
		}
		return err
	}
	before, err := n.seal(ctx, *was)
	if err != nil {
		return err
	}
	return n.store.UpdateNode(ctx, row, before)
}

// DeleteNode removes a node. fault.Changed if it is not as was; fault.Locked.
func (n *Nodes) DeleteNode(ctx context.Context, was Node) error {
	before, err := n.seal(ctx, was)
	if err != nil {
		return err
	}
	return n.store.DeleteNode(ctx, was.ID, before)
}

// seal gives the seal of the row that is there, if it is as was.
func (n *Nodes) seal(ctx context.Context, was Node) ([]byte, error) {
	rows, err := n.store.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		if r.ID == was.ID && r.Address == was.Address && r.State == was.State && r.Joined.Equal(was.Joined) {
			return r.Seal, nil
		}
	}
	return nil, fault.Errorf(fault.Changed, "the node %s was changed by another operation at the same time; look at it and try again", was.ID)
}

// Leader gives the node that leads, and its token; zeros if none does yet. fault.Tampered.
func (n *Nodes) Leader(ctx context.Context) (LeaderRow, error) {
	row, err := n.store.Leader(ctx)
	if fault.CodeOf(err) == fault.NotFound {
		return LeaderRow{}, nil
	}
	if err == nil {
		err = n.seals.Verify(ctx, row.Binding(), row.Seal)
	}
	if err != nil {
		return LeaderRow{}, err
	}
	return *row, nil
}

// TakeLead has a node lead in the place of was, and gives its token. fault.Changed if another
// was faster; fault.Locked.
func (n *Nodes) TakeLead(ctx context.Context, node string, was LeaderRow) (LeaderRow, error) {
	defer n.seals.Writing()()
	row := LeaderRow{Node: node, Token: was.Token + 1}
	var err error
	if row.Seal, err = n.seals.Seal(ctx, row.Binding()); err != nil {
		return LeaderRow{}, err
	}
	before := &was
	if was.Token == 0 {
		before = nil
	}
	return row, n.store.SetLeader(ctx, &row, before)
}

// maxNodeAddress is the longest address of a node, in bytes, as in the database.
const maxNodeAddress = 256

// ValidNodeAddress says whether nodes may call an address: HOST:PORT, where the host is an IP
// address or a DNS name. What nodes are told of each other comes from the database as well.
func ValidNodeAddress(address string) bool {
	if len(address) > maxNodeAddress {
		return false
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return false
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return !strings.Contains(host, "%") // a zone is of one machine
	}
	return host != "" && !strings.ContainsFunc(host, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_'
	})
}
