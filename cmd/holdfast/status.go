package main

import (
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"holdfast/appliance/audit"
	"holdfast/appliance/machine/boot"
	"holdfast/web"
)

func statusCommand(a *admin) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the state of the appliance, how it booted, and why it is locked if it is",
		Args:  cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			var s web.Status
			if err := a.client().Do(cmd.Context(), http.MethodGet, "status", nil, &s); err != nil {
				return err
			}
			return a.show(cmd, s, func(w io.Writer) { showStatus(w, s) })
		}),
	}
}

func showStatus(w io.Writer, s web.Status) {
	b := s.Boot
	state := string(b.State)
	if !b.Serves() && b.State != boot.Locked {
		state = fmt.Sprintf("locked (boot: %s)", b.State)
	}
	row(w, "state", state)
	row(w, "since", when(b.Since))
	if b.Code != "" {
		row(w, "code", b.Code)
		row(w, "reason", b.Reason)
	}
	if !s.Locked {
		row(w, "lease", (time.Duration(s.LeaseSeconds) * time.Second).String())
		row(w, "key stores", s.KeyStores)
		if !s.Blocked.IsZero() {
			row(w, "everything", blocked(s.Blocked))
		}
		for _, name := range s.BlockedKeyStores {
			row(w, "key store "+name, "blocked")
		}
	}
	if i := s.Instance; i != nil {
		row(w, "instance", fmt.Sprintf("%s, %s, %s, %s, account %s (as its metadata service tells, not proven)", i.ID, i.Type, i.Image, i.Zone, i.Account))
	}
	for _, h := range s.HSMs {
		row(w, "HSM "+h.Label, string(h.Status)+" (serial "+orDash(h.Serial)+", probe "+h.Took.Round(10*time.Microsecond).String()+")")
		if h.Error != "" {
			row(w, "", h.Error)
		}
	}
	if l := s.Audit; l != nil {
		row(w, "audit log", fmt.Sprintf("%d records, %d of them not signed yet, %d MiB free", l.Size, l.Lag, l.Free>>20))
		for _, problem := range []string{l.Broken, l.Signer} {
			if problem != "" {
				row(w, "", problem)
			}
		}
		if l.Level != audit.LevelOK {
			row(w, "", "the disk is "+map[audit.Level]string{audit.LevelWarning: "filling up: make space", audit.LevelFull: "full: requests are refused"}[l.Level])
		}
	}
	if t := b.Attestation; t != nil {
		row(w, "attestation", fmt.Sprintf("%s at %s, under policy %s, version %d", t.Result, when(t.Time), t.Policy, t.Version))
		if t.Unproven != "" {
			row(w, "", "the policy does not prove which code runs; it is used because: "+t.Unproven)
		}
		if t.Reference != "" {
			row(w, "", t.Reference)
		}
		if !t.Next.IsZero() {
			row(w, "", "next at "+when(t.Next))
		}
		if !t.KeyExpires.IsZero() {
			row(w, "", "the processor's certificate expires at "+when(t.KeyExpires))
		}
	}
	for _, step := range b.Steps {
		what := step.Reason
		if step.Code != "" {
			what = step.Code
		}
		took := "-"
		if step.Took != 0 {
			took = step.Took.Round(10 * time.Microsecond).String()
		}
		row(w, "boot: "+step.State, fmt.Sprintf("%s  %-10s %s", when(step.Began), took, what))
	}
}
