package main

import (
	"cmp"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func hsmCommand(a *admin) *cobra.Command {
	var page operation.HSMPage
	return cli.Group("hsm", "Look after the HSMs",
		addPaging(a.asking("probe", "Have each HSM do its test operation now", func(cmd *cobra.Command, _ []string) error {
			return listCall(a, cmd, operation.ProbeHSMs, page, showHSMs)
		}), &page.Paging, operation.ProbeHSMs))
}

func showHSMs(w io.Writer, all []appliance.HSMHealth) {
	for _, h := range all {
		cli.Row(w, "HSM "+h.Label, string(h.Status)+" (serial "+cli.OrDash(h.Serial)+", probe "+took(h.Took)+")")
		if h.Error != "" {
			cli.Row(w, "", h.Error)
		}
		if e := h.Process.LastEnd; e != nil {
			cli.Row(w, "  last end", cli.When(e.Time)+", "+e.Cause+": "+e.Reason)
			cli.Row(w, "", e.Do)
		}
		if h.Dialect != "" {
			cli.Row(w, "  used by", fmt.Sprintf("dialect %s, at most %d sessions", h.Dialect, h.MaxSessions))
		}
		if p := h.Process; p.PID != 0 {
			cli.Row(w, "  module process", fmt.Sprintf("%d, %d MiB, number %d since the start", p.PID, p.MemoryBytes>>20, p.Starts))
			cli.Row(w, "  confined", cmp.Or(p.Confined, "not at all"))
		}
	}
}
