package operation

import (
	"context"
	"io"
	"iter"
	"time"

	"holdfast/appliance/audit"
	"holdfast/appliance/fault"
)

// AuditPeers are the audit logs of the fleet's other nodes.
type AuditPeers interface {
	// Node is the name of this node: the ID of its log.
	Node() string
	// Peers gives the others, as they are known now.
	Peers() []AuditPeer
}

// AuditPeer is the audit log of another node. How it is reached must bound how much of an
// answer is read; what else an answer may be is checked here.
type AuditPeer interface {
	// Node is its name: the ID of its log.
	Node() string
	// Search is that of [Audit], for that log alone.
	Search(ctx context.Context, q audit.Query) (records []*audit.Record, next string, err error)
	// Proof is that of [Audit].
	Proof(ctx context.Context, seq int64) ([]byte, error)
}

// peerTime bounds how long another node is waited for.
const peerTime = 3 * time.Second

// SilentNode is a node of whose records an answer has none.
type SilentNode struct {
	Node string     `json:"node" jsonschema:"The ID of the node."`
	Code fault.Code `json:"code" jsonschema:"The code of the reason."`
	// Reason says why in a sentence.
	Reason string `json:"reason" jsonschema:"Why there are no records of this node, in a sentence."`
}

// auditNodes gives the logs that a search is about: that of one node if it is named, and
// otherwise of all. None without a fleet, and before this node's log is open: then there is
// no name to give.
func (p *Performer) auditNodes(named string) ([]audit.Node, error) {
	if p.AuditPeers == nil || p.AuditPeers.Node() == "" {
		if named != "" {
			return nil, noSuchNode(named)
		}
		return nil, nil
	}
	all := []audit.Node{{Name: p.AuditPeers.Node(), Search: p.Audit.Search}}
	for _, peer := range p.AuditPeers.Peers() {
		all = append(all, audit.Node{Name: peer.Node(), Search: peer.Search})
	}
	if named == "" {
		return all, nil
	}
	for _, n := range all {
		if n.Name == named {
			return []audit.Node{n}, nil
		}
	}
	return nil, noSuchNode(named)
}

func noSuchNode(name string) error {
	return fault.Errorf(fault.NotFound, "the fleet has no node %.80q", name)
}

// searchAudit searches the log, or those of all nodes.
func (p *Performer) searchAudit(ctx context.Context, q audit.Query, node string) (*Records, error) {
	nodes, err := p.auditNodes(node)
	if err != nil {
		return nil, err
	}
	found := &Records{Records: []audit.NodeRecord{}}
	if nodes == nil {
		list, next, err := p.Audit.Search(ctx, q)
		for _, r := range list {
			found.Records = append(found.Records, audit.NodeRecord{Record: r})
		}
		found.Next = next
		return found, err
	}
	page, err := audit.SearchNodes(ctx, nodes, q, peerTime)
	if err != nil {
		return nil, err
	}
	found.Records, found.Next = append(found.Records, page.Records...), page.Next
	for _, n := range nodes {
		found.Nodes = append(found.Nodes, n.Name)
	}
	for _, f := range page.Failed {
		told := fault.Answer(ctx, p.Log, "the audit log of a node was searched", f.Err, "node", f.Node)
		found.Silent = append(found.Silent, SilentNode{f.Node, told.Code, told.Message})
	}
	return found, nil
}

// exportAudit writes what a search finds in the log, or in those of all nodes. A node that
// does not answer ends it: nobody shall take the rest for whole.
func (p *Performer) exportAudit(ctx context.Context, q audit.Query, node string, w io.Writer, format string) error {
	nodes, err := p.auditNodes(node)
	switch {
	case err != nil:
		return err
	case nodes == nil:
		return p.Audit.Export(ctx, q, w, format)
	}
	var all []audit.NodeLines
	for _, n := range nodes {
		all = append(all, audit.NodeLines{Name: n.Name, Lines: linesOf(ctx, n, q)})
	}
	return audit.ExportNodes(all, w, format)
}

// linesOf gives the lines of a node's log, page by page.
func linesOf(ctx context.Context, n audit.Node, q audit.Query) iter.Seq2[[]byte, error] {
	q.Limit = 1000
	return func(yield func([]byte, error) bool) {
		for q := q; ; {
			page, err := audit.SearchNodes(ctx, []audit.Node{n}, q, peerTime)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, r := range page.Records {
				line, err := r.AppendJSON(nil)
				if !yield(line, err) || err != nil {
					return
				}
			}
			if q.Cursor = page.Next; q.Cursor == "" {
				return
			}
		}
	}
}

// peerNamed gives another node; nil if it is this one, or none is named.
func (p *Performer) peerNamed(name string) (AuditPeer, error) {
	switch {
	case name == "":
		return nil, nil
	case p.AuditPeers == nil:
		return nil, noSuchNode(name)
	case name == p.AuditPeers.Node():
		return nil, nil
	}
	for _, peer := range p.AuditPeers.Peers() {
		if peer.Node() == name {
			return peer, nil
		}
	}
	return nil, noSuchNode(name)
}

// proveRecord gives the proof of a record, of this node or another.
func (p *Performer) proveRecord(ctx context.Context, in RecordNumber) ([]byte, error) {
	peer, err := p.peerNamed(in.Node)
	switch {
	case err != nil:
		return nil, err
	case peer == nil:
		return p.Audit.Proof(ctx, in.Seq)
	}
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	return peer.Proof(ctx, in.Seq)
}
