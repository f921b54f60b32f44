package audit

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/appliance/fault"
)

// NodeRecord is a record, and the node that made it. No line says that: it is the node in
// whose log the record is.
type NodeRecord struct {
	Node string `json:"node,omitempty" jsonschema:"The ID of the node in whose log the record is; absent for an appliance on its own."` // empty where there is one log
	*Record
}

// MarshalJSON gives the record's line, with the node before it.
func (r NodeRecord) MarshalJSON() ([]byte, error) {
	line, err := r.AppendJSON(nil)
	if err != nil {
		return nil, err
	}
	return appendNode(nil, r.Node, line), nil
}

// appendNode appends a line, with the node before its fields.
func appendNode(b []byte, node string, line []byte) []byte {
	if node == "" {
		return append(b, line...)
	}
	b = appendString(append(b, `{"node":`...), node)
	return append(append(b, ','), line[1:]...)
}

// UnmarshalJSON reads what MarshalJSON gives.
func (r *NodeRecord) UnmarshalJSON(b []byte) error {
	type fields Record // without methods
	var f struct {
		Node string `json:"node"`
		fields
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return err
	}
	*r = NodeRecord{f.Node, (*Record)(&f.fields)}
	return nil
}

// Node is a node whose log is searched with those of others.
type Node struct {
	Name string // as an ID of a log
	// Search is [Reader.Search], here or elsewhere.
	Search func(ctx context.Context, q Query) (records []*Record, next string, err error)
}

// NodesPage is a page of the records of several nodes.
type NodesPage struct {
	Records []NodeRecord
	// Next is the cursor of the next page; "" if no node that has answered has more.
	Next string
	// Failed are the nodes of which the page has nothing, in the order of their names.
	Failed []NodeFailure
}

// NodeFailure says why there is nothing of a node: fault.AuditTimeout if it did not answer in
// time, fault.AuditPeer if its answer cannot be right, or its own error.
type NodeFailure struct {
	Node string
	Err  error
}

// SearchNodes searches the logs of several nodes at once, and gives a page of their
// records, the newest first: in one log by their numbers, among logs by their times. A node
// that does not answer within that time (any if it is 0), or answers what cannot be right,
// is named, and the page has nothing of it. The cursor has the place in each log, so that
// no record is lost or comes twice while the logs grow, and whichever node is asked for
// the next page; what a node missed comes with the page when it answers again. Errors:
// fault.Invalid for the query; and the first node's error if there is no node that answers.
func SearchNodes(ctx context.Context, nodes []Node, q Query, within time.Duration) (*NodesPage, error) {
	if q.Limit < 0 || q.Limit > maxPage {
		return nil, pageLimit(q.Limit)
	}
	if q.Limit == 0 {
		q.Limit = defaultPage
	}
	at, err := parseNodesCursor(q.Cursor)
	if err != nil {
		return nil, err
	}
	q.Cursor = ""
	if _, err := newSearch(q); err != nil {
		return nil, err
	}
	logs, err := askNodes(ctx, nodes, at, q, within)
	if err != nil {
		return nil, err
	}
	return merge(logs, q.Limit), nil
}

// nodeAnswer is what a node has answered.
type nodeAnswer struct {
	name    string
	cursor  string // the place in its log where the page begins; "" is its end
	records []*Record
	more    bool // there are more behind the records
	err     error
	taken   int
}

// askNodes asks those that have more, all at once. The answers are in the order of the names.
func askNodes(ctx context.Context, nodes []Node, at map[string]string, q Query, within time.Duration) ([]*nodeAnswer, error) {
	if within > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, within)
		defer cancel()
	}
	var all []*nodeAnswer
	var waits []chan *nodeAnswer
	names := map[string]bool{}
	for _, n := range nodes {
		if !ValidLogID(n.Name) || names[n.Name] {
			return nil, fault.Errorf(fault.Invalid, "%.80q cannot be the name of a node, or is that of two; see which nodes the fleet has", n.Name)
		}
		names[n.Name] = true
		if at[n.Name] == endOfLog {
			all = append(all, &nodeAnswer{name: n.Name, cursor: endOfLog})
			continue
		}
		q, answered := q, make(chan *nodeAnswer, 1) // a node that answers late waits for nobody
		q.Cursor = at[n.Name]
		go func() {
			a := &nodeAnswer{name: n.Name, cursor: q.Cursor}
			var next string
			if a.records, next, a.err = n.Search(ctx, q); a.err == nil {
				a.more, a.err = next != "", checkAnswer(n.Name, a.records, next, q)
			}
			if a.err != nil && ctx.Err() != nil {
				a.err = late(ctx, n.Name)
			}
			answered <- a
		}()
		waits = append(waits, answered)
		all = append(all, nil)
	}
	var first error
	failed, next := 0, 0
	for i, n := range nodes {
		if all[i] != nil {
			continue
		}
		if all[i] = wait(ctx, waits[next]); all[i] == nil {
			all[i] = &nodeAnswer{name: n.Name, cursor: at[n.Name], err: late(ctx, n.Name)}
		}
		next++
		if all[i].err != nil {
			failed++
			all[i].records = nil
			if first == nil {
				first = all[i].err
			}
		}
	}
	if failed == len(nodes) && first != nil {
		return nil, first
	}
	slices.SortFunc(all, func(a, b *nodeAnswer) int { return strings.Compare(a.name, b.name) })
	return all, nil
}

// wait gives the answer; nil if it does not come in time.
func wait(ctx context.Context, answered <-chan *nodeAnswer) *nodeAnswer {
	select {
	case a := <-answered:
		return a
	case <-ctx.Done():
	}
	select {
	case a := <-answered: // it came while another was waited for
		return a
	default:
		return nil
	}
}

func late(ctx context.Context, node string) error {
	return fault.Wrapf(fault.AuditTimeout, ctx.Err(), "the node %s did not answer in time", node)
}

// checkAnswer says what cannot be right in what a node has answered to a query.
func checkAnswer(node string, records []*Record, next string, q Query) error {
	wrong := func(what string) error {
		return fault.Errorf(fault.AuditPeer, "the node %s answers %s", node, what)
	}
	s, err := newSearch(q)
	switch {
	case err != nil:
		return err
	case len(records) > q.Limit:
		return wrong("with more records than it was asked for")
	case len(records) == 0 && next != "":
		return wrong("without a record, and says that there are more")
	}
	var line []byte
	for i, r := range records {
		if r == nil || r.Check() != nil {
			return wrong("with what is no record")
		}
		line = r.AppendLine(line[:0], r.Seq, r.Time)
		switch {
		case len(line) > MaxLine:
			return wrong("with a record that is longer than any")
		case i > 0 && r.Seq >= records[i-1].Seq:
			return wrong("with records that are not in the order of their numbers")
		case !s.matches(line):
			return wrong("with a record that was not asked for")
		}
	}
	return nil
}

// merge makes a page of the answers.
func merge(logs []*nodeAnswer, limit int) *NodesPage {
	page := &NodesPage{}
	for len(page.Records) < limit {
		var newest *nodeAnswer
		for _, l := range logs {
			if l.err == nil && l.taken == len(l.records) && l.more { // what it has next may be newer than what others have
				newest = nil
				break
			}
			if l.taken < len(l.records) && (newest == nil || l.records[l.taken].Time.After(newest.records[newest.taken].Time)) {
				newest = l
			}
		}
		if newest == nil {
			break
		}
		page.Records = append(page.Records, NodeRecord{newest.name, newest.records[newest.taken]})
		newest.taken++
	}
	more := false
	var places []string
	for _, l := range logs {
		if l.err != nil {
			page.Failed = append(page.Failed, NodeFailure{l.name, l.err})
		} else {
			l.advance()
			more = more || l.cursor != endOfLog
		}
		if l.cursor != "" {
			places = append(places, l.name+":"+l.cursor)
		}
	}
	if more {
		page.Next = strings.Join(places, ",")
	}
	return page
}

// advance sets the place where the next page begins.
func (l *nodeAnswer) advance() {
	switch {
	case l.taken == len(l.records) && !l.more:
		l.cursor = endOfLog
	case l.taken == 0: // also records that come meanwhile are before it
		l.cursor = strconv.FormatInt(l.records[0].Seq+1, 10)
	default:
		l.cursor = strconv.FormatInt(l.records[l.taken-1].Seq, 10)
	}
}

// endOfLog is the place behind which there is no record.
const endOfLog = "0"

// maxNodesCursor bounds a cursor of several nodes.
const maxNodesCursor = 16 << 10

// parseNodesCursor reads "NODE:PLACE,NODE:PLACE".
func parseNodesCursor(cursor string) (map[string]string, error) {
	at := map[string]string{}
	if cursor == "" {
		return at, nil
	}
	for part := range strings.SplitSeq(cursor[:min(len(cursor), maxNodesCursor)], ",") {
		node, place, ok := strings.Cut(part, ":")
		n, err := strconv.ParseInt(place, 10, 64)
		if !ok || !ValidLogID(node) || err != nil || n < 0 || n > MaxSeq || len(cursor) > maxNodesCursor {
			return nil, fault.Errorf(fault.Invalid, "%.40q is no cursor of a search in the logs of several nodes; begin the search again without it", cursor)
		}
		at[node] = place
	}
	return at, nil
}
