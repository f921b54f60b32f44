package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"golang.org/x/mod/sumdb/note"

	"holdfast/appliance/audit"
	"holdfast/attest"
	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/terminal"
	"holdfast/web/operation"
)

func auditCommand(a *admin) *cobra.Command {
	return cli.Group("audit", "Read and verify the audit log", auditVerifyCommand(a), auditTailCommand(a), auditSearchCommand(a), auditShowCommand(a),
		auditExportCommand(a), auditProofCommand(a), auditCheckProofCommand(a), auditCheckpointCommand(a), auditVerificationCommand(a))
}

// defaultAuditDir is where the appliance has its log, unless state.dir says
// otherwise.
const defaultAuditDir = "/var/lib/holdfast/audit"

// auditKeys are the flags that say whose signature a log must have.
type auditKeys struct{ keys, evidence []string }

func (k *auditKeys) add(c *cobra.Command) {
	c.Flags().StringArrayVar(&k.keys, "key", nil, "public key (PEM) that signs checkpoints; may be given again, for a log that has had several")
	c.Flags().StringArrayVar(&k.evidence, "evidence", nil, "evidence file that names the key; verify it as well, with holdfast verify")
	c.MarkFlagsOneRequired("key", "evidence")
}

// auditKeyName is the name of the key in checkpoints.
const auditKeyName = "holdfast-audit"

func (k *auditKeys) verifiers() (note.Verifiers, error) {
	var list []note.Verifier
	add := func(file string, der []byte) error {
		key, err := x509.ParsePKIXPublicKey(der)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		public, ok := key.(*ecdsa.PublicKey)
		if !ok {
			return fmt.Errorf("%s is %s; checkpoints are signed with ECDSA on P-256", file, cli.KindOfKey(key))
		}
		v, err := audit.NewECDSAVerifier(auditKeyName, public)
		if err != nil {
			return err
		}
		// The same key may be named by several files. Twice in a list it is ambiguous
		// (note.VerifierList).
		if !slices.ContainsFunc(list, func(have note.Verifier) bool { return have.Name() == v.Name() && have.KeyHash() == v.KeyHash() }) {
			list = append(list, v)
		}
		return nil
	}
	for _, file := range k.keys {
		text, err := cli.ReadInput(file)
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(text)
		if block == nil || block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("%s is not a public key in PEM", file)
		}
		if err := add(file, block.Bytes); err != nil {
			return nil, err
		}
	}
	for _, file := range k.evidence {
		text, err := cli.ReadInput(file)
		if err != nil {
			return nil, err
		}
		e, err := attest.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if len(e.AuditKey) == 0 {
			return nil, fmt.Errorf("%s names no key of an audit log", file)
		}
		if err := add(file, e.AuditKey); err != nil {
			return nil, err
		}
	}
	return note.VerifierList(list...), nil
}

func auditVerifyCommand(a *admin) *cobra.Command {
	var keys auditKeys
	var o audit.FleetOptions
	var checkpoints []string
	var until string
	c := &cobra.Command{
		Use:   "verify [DIR ...] {--key FILE | --evidence FILE} [--checkpoint FILE] [--until TIME]",
		Short: "Check audit logs offline: that no record was changed, dropped, moved or added",
		Long: "Check an audit log offline: that no record was changed, dropped, moved or added, and that its checkpoints are\n" +
			"signed. A checkpoint that you have kept elsewhere (holdfast audit checkpoint) finds a log that was swapped for\n" +
			"an older copy. Give the logs of all nodes of a fleet, and the keys of all: each is then held against what the\n" +
			"others have countersigned of it as well. It exits 0 if the logs are whole, 1 if not, 2 if the input is unusable,\n" +
			"3 if nothing is wrong but a log is missing that another names.",
		RunE: cli.Does(func(cmd *cobra.Command, dirs []string) error {
			verifiers, err := keys.verifiers()
			if err != nil {
				return fmt.Errorf("%w: %w", cli.ErrUnusable, err)
			}
			for _, file := range checkpoints {
				text, err := cli.ReadInput(file)
				if err != nil {
					return fmt.Errorf("%w: %w", cli.ErrUnusable, err)
				}
				o.Checkpoints = append(o.Checkpoints, text)
			}
			if err := timeFlag("--until", until, &o.Until); err != nil {
				return err
			}
			if len(dirs) == 0 {
				dirs = []string{defaultAuditDir}
			}
			p := terminal.NewProgress(a.Notes(cmd), "verifying the audit log", terminal.Items)
			o.Progress = func(records int64) { p.At(records, 0) }
			report, err := audit.VerifyFleet(dirs, verifiers, o)
			p.End()
			if err != nil {
				return fmt.Errorf("%w: %w", cli.ErrUnusable, err)
			}
			return a.showVerified(cmd, report)
		}),
	}
	keys.add(c)
	c.Flags().StringVar(&o.LogID, "log-id", "", "the ID that the log must have; for one log alone")
	c.Flags().StringArrayVar(&checkpoints, "checkpoint", nil, "a checkpoint of the log that was kept elsewhere; may be given again, for the logs of several nodes")
	c.Flags().StringVar(&until, "until", "", "leave out countersignatures after this time (RFC 3339): when you began to copy the folders")
	return c
}

// oneReport is what is shown of one log alone.
type oneReport struct {
	*audit.Report
	Missing []audit.MissingLog `json:"missing,omitempty"`
}

// showVerified shows a report, and gives the error that its verdict exits with.
func (a *admin) showVerified(cmd *cobra.Command, r *audit.FleetReport) error {
	var err error
	if len(r.Logs) == 1 {
		one := &r.Logs[0]
		if one.Error != "" {
			return fmt.Errorf("%w: %s: %s", cli.ErrUnusable, one.Dir, one.Error)
		}
		err = a.Show(cmd, oneReport{&one.Report, r.Missing}, func(w io.Writer) {
			showAuditReport(w, &one.Report)
			showMissing(w, r.Missing)
			cli.Row(w, "verdict", string(r.Verdict))
		})
	} else {
		err = a.Show(cmd, r, func(w io.Writer) { showFleetReport(w, r) })
	}
	switch {
	case err != nil:
		return err
	case r.Verdict == audit.VerdictBroken:
		return cli.ErrReported
	case r.Verdict == audit.VerdictIncomplete:
		return cli.ErrIncomplete
	}
	return nil
}

func showFleetReport(w io.Writer, r *audit.FleetReport) {
	for i := range r.Logs {
		l := &r.Logs[i]
		cli.Row(w, "folder", l.Dir)
		if l.Error != "" {
			cli.Row(w, "error", l.Error)
		} else {
			showAuditReport(w, &l.Report)
			cli.Row(w, "log is", string(l.Verdict()))
		}
		cli.Row(w, "")
	}
	for _, n := range r.Notes {
		cli.Row(w, "note", n)
	}
	showMissing(w, r.Missing)
	cli.Row(w, "verdict", string(r.Verdict))
}

func showMissing(w io.Writer, missing []audit.MissingLog) {
	for _, m := range missing {
		cli.Row(w, "missing", m.String())
	}
}

func showAuditReport(w io.Writer, r *audit.Report) {
	cli.Row(w, "log", r.LogID)
	cli.Row(w, "records", fmt.Sprintf("%d, from %d on, in %d segments", r.Records-r.First, r.First, r.Segments))
	cli.Row(w, "checkpoints", fmt.Sprintf("%d, the newest of %s over %d records", r.Checkpoints, cli.When(r.Newest.Time), r.Newest.Size))
	if h := r.Newest.State; h.Sequence > 0 {
		cli.Row(w, "state", fmt.Sprintf("number %d of %s, digest %s", h.Sequence, h.At.Format(time.RFC3339), h.Digest))
	}
	if r.Countersigned > 0 {
		cli.Row(w, "countersigned", fmt.Sprintf("%d heads by other nodes", r.Countersigned))
	}
	if r.Unsigned > 0 {
		cli.Row(w, "unsigned", fmt.Sprintf("the last %d records, which no checkpoint covers yet", r.Unsigned))
	}
	for _, n := range r.Notes {
		cli.Row(w, "note", n)
	}
	if b := r.Broken; b != nil {
		cli.Row(w, "broken", fmt.Sprintf("%s: %s", b.Code, b.Message))
		if b.Segment != "" {
			cli.Row(w, "where", fmt.Sprintf("%s line %d, record %d", b.Segment, b.Line, b.Seq))
		}
	}
}

// auditQuery are the flags that select records.
type auditQuery struct {
	operation.AuditFilter
	from, to string
}

func (q *auditQuery) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&q.from, "from", "", "from this time on (RFC 3339)")
	f.StringVar(&q.to, "to", "", "before this time (RFC 3339)")
	f.StringVar(&q.KeyStore, "key-store", "", "of this key store")
	f.StringVar(&q.Key, "key-id", "", "of this key, in --key-store")
	f.StringVar(&q.Actor, "actor", "", "done or approved by this user or API token; root is \"local uid 0\"")
	f.StringVar(&q.Operation, "operation", "", "this operation: its ID or its words, such as \"Disable key\"")
	f.StringVar(&q.Object, "object", "", "done to this user, credential, grant, API token, session or node: its ID or name")
	f.StringVar(&q.Token, "token", "", "done by this API token: its ID or name")
	f.StringVar(&q.Address, "address", "", "from this IP address")
	f.StringVar(&q.Error, "error", "", "with this error's code or name")
	f.BoolVar(&q.Life, "life", false, "what was done to --key-id or --key-store, without the requests of KMS")
	f.StringVar(&q.Principal, "principal", "", "of this principal")
	f.StringVar(&q.Node, "node", "", "of this node of the fleet")
	f.StringVar(&q.KMSRequestID, "kms-request-id", "", "with this request ID, which CloudTrail has as well")
	f.StringVar(&q.RequestID, "request-id", "", "done by the request to the API or the console that had this ID (header Request-Id)")
	cli.OneOf(f, &q.Kind, "kind", "of this kind", audit.KindXKS, audit.KindAdmin, audit.KindBoot, audit.KindLease, audit.KindAudit, audit.KindFleet)
	cli.OneOf(f, &q.Result, "result", "with this result", audit.Allowed, audit.Denied, audit.Failed)
}

// filter reads the times of the flags.
func (q *auditQuery) filter() (operation.AuditFilter, error) {
	if err := errors.Join(timeFlag("--from", q.from, &q.From), timeFlag("--to", q.to, &q.To)); err != nil {
		return q.AuditFilter, err
	}
	if q.Key != "" && q.KeyStore == "" {
		return q.AuditFilter, fmt.Errorf("%w: --key-id needs --key-store", cli.ErrUnusable)
	}
	return q.AuditFilter, nil
}

// timeFlag reads the time of a flag, if it is given.
func timeFlag(flag, text string, into *time.Time) error {
	if text == "" {
		return nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return fmt.Errorf("%w: %s %q is not a time such as 2026-11-23T12:00:00Z", cli.ErrUnusable, flag, text)
	}
	*into = at
	return nil
}

func auditSearchCommand(a *admin) *cobra.Command {
	var q auditQuery
	var page operation.AuditSearch
	c := a.reading("search [DIR ...]", "Find records of an appliance, of a fleet or of folders, the newest first", func(cmd *cobra.Command, log auditLog, _ []string) (err error) {
		if page.AuditFilter, err = q.filter(); err != nil {
			return err
		}
		found, err := log.search(cmd.Context(), page)
		if err != nil {
			return err
		}
		return a.Show(cmd, found, func(w io.Writer) {
			showRecords(w, found.Records.Records)
			if found.Next != "" {
				cli.Row(w, "More: --after "+found.Next)
			}
			found.showGaps(w)
		})
	})
	q.add(c)
	addLimit(c, &page.Limit)
	c.Flags().StringVar(&page.After, "after", "", "go on behind the page before, which says with what")
	return c
}

func auditTailCommand(a *admin) *cobra.Command {
	page := operation.AuditSearch{Limit: 20}
	c := a.reading("tail [DIR ...]", "Show the newest records, the newest last", func(cmd *cobra.Command, log auditLog, _ []string) error {
		found, err := log.search(cmd.Context(), page)
		if err != nil {
			return err
		}
		slices.Reverse(found.Records.Records)
		return a.Show(cmd, found.Records.Records, func(w io.Writer) {
			showRecords(w, found.Records.Records)
			found.showGaps(w)
		})
	})
	cli.Between(c.Flags(), &page.Limit, "lines,n", "how many", 1, 1000)
	return c
}

func auditShowCommand(a *admin) *cobra.Command {
	var n operation.RecordNumber
	c := a.asking("show SEQ", "Show one record, whole", func(cmd *cobra.Command, args []string) (err error) {
		if n.Seq, err = recordNumber(args[0]); err != nil {
			return err
		}
		done, err := cli.Call(cmd.Context(), &a.Admin, operation.ShowAuditRecord, n)
		if err != nil {
			return err
		}
		return a.PrintJSON(cmd, done)
	})
	addNode(c, &n.Node)
	return c
}

// addNode adds the flag that says in which node's log a record is.
func addNode(c *cobra.Command, node *string) {
	c.Flags().StringVar(node, "node", "", "the node of the fleet in whose log it is; without it, the one that answers")
}

func recordNumber(text string) (int64, error) {
	seq, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seq < 0 {
		return 0, fmt.Errorf("%w: %q is not the number of a record", cli.ErrUnusable, text)
	}
	return seq, nil
}

func showRecords(w io.Writer, records []audit.NodeRecord) {
	for _, r := range records {
		what := r.Principal
		if what == "" {
			what = r.Actor
		}
		if way := operation.WayOf(r.Record); way != "" {
			what += " (" + way + ")"
		}
		detail := operation.DetailOf(r.Record)
		if by := operation.ApproverOf(r.Record); by != "" {
			detail = strings.TrimSpace("approved by " + by + " " + detail)
		}
		if r.Kind == audit.KindAdmin && r.Remote != "" {
			detail = strings.TrimSpace("from " + r.Remote + " " + detail)
		}
		about := strings.TrimSuffix(r.KeyStore+"/"+r.Key, "/")
		if r.Object != "" && r.ObjectKind != "key" && r.ObjectKind != "key store" {
			about = strings.TrimSpace(about + " " + r.Object)
		}
		if r.KMSRequestID != "" {
			detail = r.KMSRequestID
		}
		if id := audit.NamedLog(r.Record); id != "" && detail == "" {
			detail = "log " + id
		}
		cells := []any{r.Seq, r.Time.UTC().Format("2006-01-02 15:04:05.000Z"), string(r.Kind), operation.ActionOf(r.Record), cli.OrDash(string(r.Result)), cli.OrDash(r.Error),
			about, cli.OrDash(what), detail}
		if r.Node != "" {
			cells = append([]any{r.Node}, cells...)
		}
		cli.Row(w, cells...)
	}
}

func auditExportCommand(a *admin) *cobra.Command {
	var q auditQuery
	want, out := operation.AuditExport{Format: "jsonl"}, ""
	c := a.reading("export [DIR ...] --format jsonl|csv", "Write records to a file or to standard output, the newest first", func(cmd *cobra.Command, log auditLog, _ []string) (err error) {
		if want.AuditFilter, err = q.filter(); err != nil {
			return err
		}
		missing := append([]audit.MissingLog{}, log.missing()...)
		tell := func(w io.Writer) {
			for _, m := range missing {
				cli.Row(w, "missing: "+m.String())
			}
		}
		if out == "" {
			if err := log.export(cmd.Context(), want, cmd.OutOrStdout()); err != nil || len(missing) == 0 {
				return err
			}
			return a.Warn(cmd, map[string]any{"missing": missing}, tell)
		}
		p := terminal.NewProgress(a.Notes(cmd), "exporting the audit log", terminal.Octets)
		size, err := writeWhole(out, func(w io.Writer) error { return log.export(cmd.Context(), want, p.Writer(w)) })
		p.End()
		if err != nil {
			return err
		}
		return a.Show(cmd, map[string]any{"export": out, "bytes": size, "missing": missing}, func(w io.Writer) {
			cli.Row(w, "export", fmt.Sprintf("%s, %d bytes", out, size))
			tell(w)
		})
	})
	q.add(c)
	cli.OneOf(c.Flags(), &want.Format, "format", "jsonl has the records as they were signed", "jsonl", "csv")
	c.Flags().StringVar(&out, "out", "", "file to write, which must not exist")
	return c
}

func auditProofCommand(a *admin) *cobra.Command {
	var n operation.RecordNumber
	c := a.reading("proof SEQ [DIR]", "Print a proof that a record is in the log, which needs no log to be checked", func(cmd *cobra.Command, log auditLog, args []string) (err error) {
		if n.Seq, err = recordNumber(args[0]); err != nil {
			return err
		}
		proof, err := log.proof(cmd.Context(), n)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", bytes.TrimSpace(proof))
		return err
	})
	addNode(c, &n.Node)
	return c
}

func auditCheckProofCommand(a *admin) *cobra.Command {
	var keys auditKeys
	c := &cobra.Command{
		Use:   "check-proof FILE {--key FILE | --evidence FILE}",
		Short: "Check a proof offline, and print the record that it is about",
		RunE: cli.Does(func(cmd *cobra.Command, args []string) error {
			verifiers, err := keys.verifiers()
			if err != nil {
				return fmt.Errorf("%w: %w", cli.ErrUnusable, err)
			}
			text, err := cli.ReadInput(args[0])
			if err != nil {
				return fmt.Errorf("%w: %w", cli.ErrUnusable, err)
			}
			in, err := audit.CheckInclusion(text, verifiers)
			if err != nil {
				return err
			}
			return a.Show(cmd, in, func(w io.Writer) {
				line, err := json.Marshal(in.Record)
				if err != nil {
					line = []byte(err.Error())
				}
				cli.Row(w, "record", string(line))
				cli.Row(w, "signed", fmt.Sprintf("at %s, among %d records", cli.When(in.Checkpoint.Time), in.Checkpoint.Size))
			})
		}),
	}
	keys.add(c)
	return c
}

func auditCheckpointCommand(a *admin) *cobra.Command {
	return a.asking("checkpoint", "Have the running appliance sign its log as it is now, and print that: keep it elsewhere", func(cmd *cobra.Command, _ []string) error {
		done, err := cli.Call(cmd.Context(), &a.Admin, operation.SignCheckpoint, operation.Nothing{})
		if err != nil {
			return err
		}
		if done.Out.Checkpoint == "" {
			return errors.New("the audit log is empty")
		}
		if a.JSON {
			return a.PrintJSON(cmd, done)
		}
		_, err = io.WriteString(cmd.OutOrStdout(), done.Out.Checkpoint)
		return err
	})
}

func auditVerificationCommand(a *admin) *cobra.Command {
	var begin bool
	c := a.asking("verification [--begin]", "Show what the appliance found when it last verified its whole log", func(cmd *cobra.Command, _ []string) error {
		o := operation.ShowAuditVerification
		if begin {
			o = operation.VerifyAudit
		}
		return call(a, cmd, o, operation.Nothing{}, showVerification)
	})
	c.Long = "Show what the appliance found when it last verified its whole log, or have it begin to verify.\n" +
		"An appliance that lies can say anything: holdfast audit verify checks a copy of the log offline."
	c.Flags().BoolVar(&begin, "begin", false, "begin to verify; it goes on in the background")
	return c
}

func showVerification(w io.Writer, v operation.Verification) {
	for _, one := range append([]operation.LogVerification{v.LogVerification}, v.Others...) {
		showLogVerification(w, one)
	}
}

func showLogVerification(w io.Writer, v operation.LogVerification) {
	if v.Node != "" {
		cli.Row(w, "node", v.Node)
	}
	switch {
	case v.Unknown != "":
		cli.Row(w, "unknown", v.Unknown)
	case v.Running:
		cli.Row(w, "running", "since "+cli.When(v.Started)+", begun by "+v.By)
		if v.Records > 0 {
			cli.Row(w, "verified", fmt.Sprintf("%d of %d records so far", v.Verified, v.Records))
		}
	case v.Started.IsZero():
		cli.Row(w, "the log was not verified since the appliance was started; holdfast audit verification --begin does it")
	default:
		cli.Row(w, "ended", cli.When(v.Ended)+", begun by "+v.By)
	}
	if v.Error != "" {
		cli.Row(w, "error", v.Error)
	}
	if v.Report != nil {
		showAuditReport(w, v.Report)
		if v.Error == "" || v.Report.Broken != nil { // otherwise it could not be read
			cli.Row(w, "verdict", string(v.Report.Verdict()))
		}
	}
}
