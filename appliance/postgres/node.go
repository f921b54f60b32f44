package postgres

import (
	"context"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"holdfast/appliance"
)

// maxNodes bounds how many nodes are given.
const maxNodes = 1000

// Announce implements [appliance.NodeHints]. Fault.Invalid if the ID or the address is
// longer than 256 bytes or not printable.
func (l *Log) Announce(ctx context.Context, n appliance.NodeHint) error {
	if err := checkName("node", n.ID); err != nil {
		return err
	}
	if err := checkName("node's address", n.Address); err != nil {
		return err
	}
	_, err := l.do(ctx, statement{
		sql: `INSERT INTO nodes (id, address, at) VALUES ($1, $2, clock_timestamp())
			ON CONFLICT (id) DO UPDATE SET address = excluded.address, at = excluded.at`,
		parameters: []any{n.ID, n.Address}})
	return err
}

// Nodes implements [appliance.NodeHints]. It gives at most 1000, those that were announced
// last, and leaves rows out that no node has announced so.
func (l *Log) Nodes(ctx context.Context) ([]appliance.NodeHint, error) {
	var nodes []appliance.NodeHint
	_, err := l.do(ctx, statement{
		sql: `SELECT id, address, micros FROM (
				SELECT id::text COLLATE "C" AS id, address::text AS address, floor(extract(epoch FROM at) * 1000000)::bigint AS micros FROM nodes
				WHERE octet_length(id) BETWEEN 1 AND $1 AND octet_length(address) BETWEEN 1 AND $1 AND at BETWEEN '1970-01-01Z' AND '9999-01-01Z'
				ORDER BY at DESC LIMIT $2) AS n
			ORDER BY id`,
		parameters: []any{maxName, maxNodes}, rows: maxNodes, row: func(r *row) error {
			n := appliance.NodeHint{ID: r.text("ID", maxName), Address: r.text("address", maxName), At: time.UnixMicro(r.number("time", 0, math.MaxInt64)).UTC()}
			if printable(n.ID) && printable(n.Address) {
				nodes = append(nodes, n)
			}
			return nil
		}})
	if err != nil {
		return nil, err
	}
	return nodes, nil
}

// RemoveNode implements [appliance.NodeHints].
func (l *Log) RemoveNode(ctx context.Context, id string) error {
	if err := checkName("node", id); err != nil {
		return err
	}
	_, err := l.do(ctx, statement{sql: `DELETE FROM nodes WHERE id = $1`, parameters: []any{id}})
	return err
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
