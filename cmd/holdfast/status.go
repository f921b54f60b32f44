package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"holdfast/appliance/audit"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func statusCommand(a *admin) *cobra.Command {
	return a.asking("status", "Show the state of the appliance, how it booted, and why it is locked if it is", func(cmd *cobra.Command, _ []string) error {
		return call(a, cmd, operation.ShowStatus, operation.Nothing{}, showStatus)
	})
}

// showFleetState shows how a node stands to its fleet.
func showFleetState(w io.Writer, s operation.Status) {
	r, f := s.Replication, s.Fleet
	if r == nil || s.Locked {
		return
	}
	cli.Row(w, "change", r.Position.Number)
	if r.Failed != "" {
		cli.Row(w, "database", fmt.Sprintf("%s since %s: %s", r.Code, cli.When(r.Since), r.Failed))
	}
	if r.Stale != "" {
		cli.Row(w, "serves", "no: "+r.Stale)
	}
	if f != nil {
		cli.Row(w, "fleet", fmt.Sprintf("%d nodes; a node that hears nothing stops after %d s; holdfast fleet status shows each", len(f.Nodes), f.GraceSeconds))
	}
}

func showStatus(w io.Writer, s operation.Status) {
	b := s.Boot
	state := string(b.State)
	if !b.Serves() && b.State != progress.Locked {
		state = fmt.Sprintf("locked (boot: %s)", b.State)
	}
	cli.Row(w, "standing", standingLine(s.Standing))
	cli.Row(w, "boot state", state)
	cli.Row(w, "since", cli.When(b.Since))
	if b.Code != "" {
		cli.Row(w, "code", b.Code)
		cli.Row(w, "reason", b.Reason)
	}
	if !s.Locked {
		cli.Row(w, "lease", (time.Duration(s.LeaseSeconds) * time.Second).String())
		cli.Row(w, "key stores", s.KeyStores)
		if !s.Blocked.IsZero() {
			cli.Row(w, "everything", blocked(s.Blocked))
		}
		for _, name := range s.BlockedKeyStores {
			cli.Row(w, "key store "+name, "blocked")
		}
		for _, o := range s.OutOfService {
			cli.Row(w, "key store "+o.KeyStore, "out of service: "+o.Reason)
		}
	}
	showFleetState(w, s)
	if i := s.Status.Installation; i.Detail != "" && !s.Locked {
		cli.Row(w, "installation", string(i.Ownership)+": "+i.Detail)
	}
	if i := s.Instance; i != nil {
		cli.Row(w, "instance", fmt.Sprintf("%s, %s, %s, %s, account %s (as its metadata service tells, not proven)", i.ID, i.Type, i.Image, i.Zone, i.Account))
	}
	if s.Clock.Waits != "" {
		cli.Row(w, "clock", "keys that are due and audit records past their age wait: "+s.Clock.Waits)
	}
	showHSMs(w, s.HSMs)
	showAuditStatus(w, s.Audit)
	if t := b.Attestation; t != nil {
		cli.Row(w, "attestation", fmt.Sprintf("%s at %s, under policy %s, version %d", t.Result, cli.When(t.Time), t.Policy, t.Version))
		if t.Unproven != "" {
			cli.Row(w, "", "the policy does not prove which code runs; it is used because: "+t.Unproven)
		}
		if t.Reference != "" {
			cli.Row(w, "", t.Reference)
		}
		if !t.Next.IsZero() {
			cli.Row(w, "", "next at "+cli.When(t.Next))
		}
		if !t.KeyExpires.IsZero() {
			cli.Row(w, "", "the processor's certificate expires at "+cli.When(t.KeyExpires))
		}
	}
	for _, step := range b.Steps {
		what := step.Reason
		if step.Code != "" {
			what = step.Code
		}
		cli.Row(w, "boot: "+step.State, fmt.Sprintf("%s  %-10s %s", cli.When(step.Began), took(step.Took), what))
	}
}

// showAuditStatus says the state of the audit log; nothing before it is open.
func showAuditStatus(w io.Writer, l *audit.Status) {
	if l == nil {
		return
	}
	cli.Row(w, "audit log", fmt.Sprintf("%d records, %d of them not signed yet, %d MiB free", l.Size, l.Lag, l.Free>>20))
	for _, problem := range []string{l.Broken, l.Signer} {
		if problem != "" {
			cli.Row(w, "", problem)
		}
	}
	if l.Stalls > 0 {
		cli.Row(w, "", fmt.Sprintf("its disk stalled %d times in %d writes, for up to %s; requests that wait for longer than the request timeout are refused: give the log a disk that nothing else writes to", l.Stalls, l.Writes, l.Slowest.Round(time.Millisecond)))
	}
	switch l.Level {
	case audit.LevelWarning:
		cli.Row(w, "", "the disk is filling up: enlarge the state volume, or keep less of the log with audit.retain_age")
	case audit.LevelFull:
		cli.Row(w, "", "the disk is full: requests are refused")
	}
}

// took prints how long something took, or a dash for nothing.
func took(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return d.Round(10 * time.Microsecond).String()
}
