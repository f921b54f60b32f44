package audit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"holdfast/appliance/fault"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
)

// Export writes all records that a query allows, the newest first, as "jsonl",
// the lines as they stand in the log, or as "csv", with a header. It passes over
// the query's limit.
func (r *Reader) Export(ctx context.Context, q Query, w io.Writer, format string) error {
	return export(r.Lines(ctx, q), w, format)
}

// NodeLines are the lines of a node's log, in the order of [Reader.Lines].
type NodeLines struct {
	Name  string
	Lines iter.Seq2[[]byte, error]
}

// ExportNodes writes the lines of several logs as [Reader.Export] does, merged as
// [SearchNodes] merges them. Each has the node as its first field.
func ExportNodes(nodes []NodeLines, w io.Writer, format string) error {
	x, err := newExporter(w, format, true)
	if err != nil {
		return err
	}
	type log struct {
		name string
		next func() ([]byte, error, bool)
		line []byte // nil at the end
		at   []byte // its time
	}
	var logs []*log
	advance := func(l *log) (err error) {
		var ok bool
		if l.line, err, ok = l.next(); !ok || err != nil {
			l.line = nil
			return err
		}
		start, err := ParseStart(l.line)
		l.at = start.Time
		return err
	}
	for _, n := range nodes {
		next, stop := iter.Pull2(n.Lines)
		defer stop()
		l := &log{name: n.Name, next: next}
		if err := advance(l); err != nil {
			return err
		}
		logs = append(logs, l)
	}
	slices.SortFunc(logs, func(a, b *log) int { return strings.Compare(a.name, b.name) })
	for {
		var newest *log
		for _, l := range logs {
			if l.line != nil && (newest == nil || bytes.Compare(l.at, newest.at) > 0) {
				newest = l
			}
		}
		if newest == nil {
			return x.end()
		}
		if err := x.write(newest.name, newest.line); err != nil {
			return err
		}
		if err := advance(newest); err != nil {
			return err
		}
	}
}

func export(lines iter.Seq2[[]byte, error], w io.Writer, format string) error {
	x, err := newExporter(w, format, false)
	if err != nil {
		return err
	}
	for line, err := range lines {
		if err != nil {
			return err
		}
		if err := x.write("", line); err != nil {
			return err
		}
	}
	return x.end()
}

// exporter writes lines in a format.
type exporter struct {
	out   *bufio.Writer
	csv   *csv.Writer // nil for jsonl
	nodes bool        // a node is the first cell
	line  []byte
}

func newExporter(w io.Writer, format string, nodes bool) (*exporter, error) {
	x := &exporter{out: bufio.NewWriterSize(w, 1<<16), nodes: nodes}
	switch format {
	case "jsonl":
		return x, nil
	case "csv":
		x.csv = csv.NewWriter(x.out)
		header := csvHeader
		if nodes {
			header = append([]string{"node"}, header...)
		}
		if err := x.csv.Write(header); err != nil {
			return nil, notExported(err)
		}
		return x, nil
	}
	return nil, fault.Errorf(fault.Invalid, "%.20q is no format of an export; use jsonl or csv", format)
}

func (x *exporter) write(node string, line []byte) error {
	var err error
	if x.csv == nil {
		x.line = append(appendNode(x.line[:0], node, line), '\n')
		_, err = x.out.Write(x.line)
	} else {
		var rec *Record
		if rec, err = ParseRecord(line); err != nil {
			return err
		}
		cells := rec.cells()
		if x.nodes {
			cells = append([]string{harmless(node)}, cells...)
		}
		err = x.csv.Write(cells)
	}
	if err != nil {
		return notExported(err)
	}
	return nil
}

func (x *exporter) end() error {
	if x.csv != nil {
		if x.csv.Flush(); x.csv.Error() != nil {
			return notExported(x.csv.Error())
		}
	}
	if err := x.out.Flush(); err != nil {
		return notExported(err)
	}
	return nil
}

func notExported(err error) error {
	return fault.Wrapf(fault.AuditIO, err, "the export could not be written")
}

var csvHeader = []string{"seq", "time", "kind", "operation", "result", "error", "key_store", "key", "version",
	"principal", "kms_request_id", "kms_key_arn", "kms_operation", "via_service", "source_vpc", "source_vpce", "policies", "actor", "session", "token", "request_id", "approved_by", "approval", "reason", "approval_reason", "action", "object_kind", "object_id", "object", "asked", "before", "after",
	"duration_us", "remote", "detail"}

func (r *Record) cells() []string {
	number := func(n uint64) string {
		if n == 0 {
			return ""
		}
		return strconv.FormatUint(n, 10)
	}
	duration := ""
	if r.DurationUS != 0 {
		duration = strconv.FormatInt(r.DurationUS, 10)
	}
	c := []string{strconv.FormatInt(r.Seq, 10), string(appendTime(nil, r.Time)), string(r.Kind), r.Operation, string(r.Result),
		r.Error, r.KeyStore, r.Key, number(r.Version), r.Principal, r.KMSRequestID, r.KMSKeyARN, r.KMSOperation, r.ViaService,
		r.SourceVPC, r.SourceVPCE, strings.Join(r.Policies, " "), r.Actor, r.Session, r.Token, r.RequestID, r.ApprovedBy, r.Approval, r.Reason, r.ApprovalWhy, r.Action, r.ObjectKind, r.ObjectID, r.Object, string(r.Asked), string(r.Before), string(r.After), duration, r.Remote, r.Detail}
	for i := range c {
		c[i] = harmless(c[i])
	}
	return c
}

// harmless keeps a spreadsheet from taking a cell for a formula.
func harmless(cell string) string {
	if cell != "" && strings.ContainsRune("=+-@\t\r", rune(cell[0])) {
		return "'" + cell
	}
	return cell
}
