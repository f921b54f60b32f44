package main

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"holdfast/appliance/audit"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

// auditLog is an audit log that can be read: one in a folder, or an appliance's.
type auditLog interface {
	search(ctx context.Context, page operation.AuditSearch) (*operation.Records, error)
	export(ctx context.Context, want operation.AuditExport, w io.Writer) error
	proof(ctx context.Context, seq int64) ([]byte, error)
}

// reading makes a command that reads the audit log in the folder DIR; without it, the
// log of the appliance that the flags name.
func (a *admin) reading(use, short string, run func(cmd *cobra.Command, log auditLog, args []string) error) *cobra.Command {
	dirAt := func(cmd *cobra.Command) int { return slices.Index(cli.ArgumentsOf(cmd).Words(), "DIR") }
	c := a.asking(use, short, func(cmd *cobra.Command, args []string) error {
		if at := dirAt(cmd); len(args) > at {
			return run(cmd, folderLog{args[at]}, args)
		}
		return run(cmd, applianceLog{a}, args)
	})
	connect := c.PreRunE
	c.PreRunE = func(cmd *cobra.Command, args []string) error {
		if len(args) <= dirAt(cmd) {
			return connect(cmd, args)
		}
		for _, name := range cli.ConnectionFlags() {
			if cmd.Flags().Changed(name) {
				return errors.New("give DIR, which is read here, or --" + name + ", which names an appliance; not both")
			}
		}
		return nil
	}
	return c
}

// folderLog is a log in a folder.
type folderLog struct{ dir string }

func (l folderLog) search(ctx context.Context, page operation.AuditSearch) (*operation.Records, error) {
	q := query(page.AuditFilter)
	q.Limit, q.Cursor = page.Limit, page.Cursor
	records, next, err := audit.NewReader(l.dir).Search(ctx, q)
	if err != nil {
		return nil, err
	}
	return &operation.Records{Records: append([]*audit.Record{}, records...), Next: next}, nil // in JSON a list, though it be empty
}

func (l folderLog) export(ctx context.Context, want operation.AuditExport, w io.Writer) error {
	return audit.NewReader(l.dir).Export(ctx, query(want.AuditFilter), w, want.Format)
}

func (l folderLog) proof(_ context.Context, seq int64) ([]byte, error) {
	return audit.InclusionProof(l.dir, seq)
}

func query(f operation.AuditFilter) audit.Query {
	return audit.Query{From: f.From, To: f.To, KeyStore: f.KeyStore, Key: f.Key, Principal: f.Principal, KMSRequestID: f.KMSRequestID, Kind: f.Kind, Result: f.Result}
}

// applianceLog is the log of the appliance that the flags name.
type applianceLog struct{ *admin }

func (l applianceLog) search(ctx context.Context, page operation.AuditSearch) (*operation.Records, error) {
	done, err := cli.Call(ctx, &l.Admin, operation.SearchAudit, page)
	return done.Out, err
}

func (l applianceLog) export(ctx context.Context, want operation.AuditExport, w io.Writer) error {
	return operation.ExportAudit.Download(ctx, l, want, w)
}

func (l applianceLog) proof(ctx context.Context, seq int64) ([]byte, error) {
	done, err := cli.Call(ctx, &l.Admin, operation.ShowAuditProof, operation.RecordNumber{Seq: seq})
	return done.Out, err
}
