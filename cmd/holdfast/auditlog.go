package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"holdfast/appliance/audit"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

// auditLog is what can be read: logs in folders, an appliance's, or a fleet's.
type auditLog interface {
	search(ctx context.Context, page operation.AuditSearch) (*foundRecords, error)
	export(ctx context.Context, want operation.AuditExport, w io.Writer) error
	proof(ctx context.Context, n operation.RecordNumber) ([]byte, error)
	// missing are the logs that those in the folders name, and that have no folder here.
	missing() []audit.MissingLog
}

// foundRecords is a page of records, and what is not on it.
type foundRecords struct {
	*operation.Records
	Missing []audit.MissingLog `json:"missing,omitempty"`
}

// showGaps says of which nodes a page has nothing.
func (f *foundRecords) showGaps(w io.Writer) {
	for _, n := range f.Silent {
		cli.Row(w, "silent: the node "+n.Node+": "+n.Reason)
	}
	for _, m := range f.Missing {
		cli.Row(w, "missing: "+m.String())
	}
}

// reading makes a command that reads the audit log in the folder DIR, or those in several;
// without one, the log of the appliance that the flags name.
func (a *admin) reading(use, short string, run func(cmd *cobra.Command, log auditLog, args []string) error) *cobra.Command {
	dirAt := func(cmd *cobra.Command) int { return slices.Index(cli.ArgumentsOf(cmd).Words(), "DIR") }
	c := a.asking(use, short, func(cmd *cobra.Command, args []string) error {
		at := dirAt(cmd)
		switch {
		case len(args) == at:
			return run(cmd, applianceLog{a}, args)
		case len(args) == at+1:
			return run(cmd, folderLog{args[at]}, args)
		}
		logs, err := openFolders(args[at:])
		if err != nil {
			return err
		}
		return run(cmd, logs, args)
	})
	connect := c.PreRunE
	c.PreRunE = func(cmd *cobra.Command, args []string) error {
		if len(args) <= dirAt(cmd) {
			return connect(cmd, args)
		}
		for _, name := range append(cli.ConnectionFlags(), "node") {
			if f := cmd.Flags().Lookup(name); f != nil && f.Changed {
				return errors.New("give DIR, which is read here, or --" + name + ", which is for an appliance; not both")
			}
		}
		return nil
	}
	return c
}

// folderLog is a log in a folder.
type folderLog struct{ dir string }

func (l folderLog) search(ctx context.Context, page operation.AuditSearch) (*foundRecords, error) {
	reader := audit.NewReader(l.dir)
	if err := checkFilter(ctx, page.AuditFilter, reader.Search); err != nil {
		return nil, err
	}
	q := page.Query()
	q.Limit, q.Cursor = page.Limit, page.After
	records, next, err := reader.Search(ctx, q)
	if err != nil {
		return nil, err
	}
	found := &operation.Records{Records: []audit.NodeRecord{}, Next: next} // in JSON a list, though it be empty
	for _, r := range records {
		found.Records = append(found.Records, audit.NodeRecord{Record: r})
	}
	return &foundRecords{Records: found}, nil
}

func (l folderLog) export(ctx context.Context, want operation.AuditExport, w io.Writer) error {
	reader := audit.NewReader(l.dir)
	if err := checkFilter(ctx, want.AuditFilter, reader.Search); err != nil {
		return err
	}
	return reader.Export(ctx, want.Query(), w, want.Format)
}

func (l folderLog) proof(_ context.Context, n operation.RecordNumber) ([]byte, error) {
	return audit.InclusionProof(l.dir, n.Seq)
}

func (folderLog) missing() []audit.MissingLog { return nil }

// checkFilter says what of a filter cannot be, as far as the records of logs tell.
func checkFilter(ctx context.Context, f operation.AuditFilter, logs ...func(context.Context, audit.Query) ([]*audit.Record, string, error)) error {
	return f.Check(ctx, operation.Known{}, func(ctx context.Context, q audit.Query) (bool, error) {
		q.Limit = 1
		for _, search := range logs {
			if found, _, err := search(ctx, q); err != nil || len(found) > 0 {
				return len(found) > 0, err
			}
		}
		return false, nil
	})
}

// folderLogs are the logs of several nodes, each in a folder.
type folderLogs struct {
	nodes  []audit.Node
	dirs   map[string]string // by node
	absent []audit.MissingLog
}

// openFolders finds whose logs the folders have.
func openFolders(dirs []string) (*folderLogs, error) {
	l := &folderLogs{dirs: map[string]string{}}
	for _, dir := range dirs {
		id, err := audit.LogIDOf(dir)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", cli.ErrUnusable, dir, err)
		}
		if other, ok := l.dirs[id]; ok {
			return nil, fmt.Errorf("%w: %s and %s have the same log, %s; give one of them", cli.ErrUnusable, other, dir, id)
		}
		l.dirs[id] = dir
		l.nodes = append(l.nodes, audit.Node{Name: id, Search: audit.NewReader(dir).Search})
	}
	var err error
	l.absent, err = audit.MissingLogs(dirs)
	return l, err
}

func (l *folderLogs) check(ctx context.Context, f operation.AuditFilter) error {
	var searches []func(context.Context, audit.Query) ([]*audit.Record, string, error)
	for _, n := range l.nodes {
		searches = append(searches, n.Search)
	}
	return checkFilter(ctx, f, searches...)
}

// search reads all; a folder that cannot be read ends it.
func (l *folderLogs) search(ctx context.Context, page operation.AuditSearch) (*foundRecords, error) {
	if err := l.check(ctx, page.AuditFilter); err != nil {
		return nil, err
	}
	q := page.Query()
	q.Limit, q.Cursor = page.Limit, page.After
	found, err := audit.SearchNodes(ctx, l.nodes, q, 0)
	if err != nil {
		return nil, err
	}
	for _, f := range found.Failed {
		return nil, fmt.Errorf("%s: %w", l.dirs[f.Node], f.Err)
	}
	all := &operation.Records{Records: append([]audit.NodeRecord{}, found.Records...), Next: found.Next}
	return &foundRecords{Records: all, Missing: l.absent}, nil
}

func (l *folderLogs) export(ctx context.Context, want operation.AuditExport, w io.Writer) error {
	if err := l.check(ctx, want.AuditFilter); err != nil {
		return err
	}
	var logs []audit.NodeLines
	for id, dir := range l.dirs {
		logs = append(logs, audit.NodeLines{Name: id, Lines: audit.NewReader(dir).Lines(ctx, want.Query())})
	}
	return audit.ExportNodes(logs, w, want.Format)
}

func (l *folderLogs) proof(context.Context, operation.RecordNumber) ([]byte, error) {
	return nil, errors.New("a proof is of a record in one folder; give that one alone")
}

func (l *folderLogs) missing() []audit.MissingLog { return l.absent }

// applianceLog is the log of the appliance that the flags name, or of its fleet.
type applianceLog struct{ *admin }

func (l applianceLog) search(ctx context.Context, page operation.AuditSearch) (*foundRecords, error) {
	done, err := cli.Call(ctx, &l.Admin, operation.SearchAudit, page)
	return &foundRecords{Records: done.Out}, err
}

func (l applianceLog) export(ctx context.Context, want operation.AuditExport, w io.Writer) error {
	return operation.ExportAudit.Download(ctx, l, want, w)
}

func (l applianceLog) proof(ctx context.Context, n operation.RecordNumber) ([]byte, error) {
	done, err := cli.Call(ctx, &l.Admin, operation.ShowAuditProof, n)
	return done.Out, err
}

func (applianceLog) missing() []audit.MissingLog { return nil }
