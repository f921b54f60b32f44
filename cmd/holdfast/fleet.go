package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"holdfast/appliance"
	"holdfast/cmd/internal/cli"
	"holdfast/web/operation"
)

func fleetCommand(a *admin) *cobra.Command {
	undo := false
	drain := a.asking("drain NODE", "Have a node of the fleet take no new requests; it finishes those it has", func(cmd *cobra.Command, args []string) error {
		what := "node " + args[0] + " takes no new requests: /readyz fails there"
		if undo {
			what = "node " + args[0] + " takes requests again"
		}
		return call(a, cmd, operation.DrainNode, operation.Drain{NodeName: operation.NodeName{Node: args[0]}, Drained: !undo}, says[operation.Nothing](what))
	})
	drain.Flags().BoolVar(&undo, "undo", false, "have it take requests again")
	var page operation.NodePage
	listNodes := a.asking("list", "List the nodes of the fleet, page by page", func(cmd *cobra.Command, _ []string) error {
		return listCall(a, cmd, operation.ListNodes, page, func(w io.Writer, nodes []appliance.NodeStatus) { showNodes(w, "", nodes) })
	})
	standingFlag(listNodes, &page.Standing, "nodes", operation.ListNodes)
	addPaging(listNodes, &page.Paging, operation.ListNodes)
	return cli.Group("fleet", "Look after the nodes of the fleet",
		a.asking("status", "Show the fleet and all its nodes, as this one knows them", func(cmd *cobra.Command, _ []string) error {
			return call(a, cmd, operation.ShowFleet, operation.Nothing{}, showFleet)
		}),
		listNodes,
		a.asking("show NODE", "Show a node of the fleet, as this one knows it", func(cmd *cobra.Command, args []string) error {
			return call(a, cmd, operation.ShowNode, operation.NodeName{Node: args[0]}, func(w io.Writer, n operation.NodeDetail) {
				showNodes(w, "", []appliance.NodeStatus{n.NodeStatus})
			})
		}),
		drain,
		a.asking("remove NODE", "Take a node out of the fleet for good: it does not serve any more", func(cmd *cobra.Command, args []string) error {
			return call(a, cmd, operation.RemoveNode, operation.NodeName{Node: args[0]}, says[operation.Nothing]("node "+args[0]+" is removed"))
		}))
}

func showFleet(w io.Writer, s appliance.FleetStatus) {
	if s.Node == "" {
		cli.Row(w, "this appliance is in no fleet")
		return
	}
	cli.Row(w, "grace", (time.Duration(s.GraceSeconds)*time.Second).String()+": so long a node serves without proof that it lacks no change")
	showNodes(w, s.Node, s.Nodes)
}

// showNodes lists nodes of the fleet, of which one is the appliance that says so; empty if it does
// not say which.
func showNodes(w io.Writer, own string, nodes []appliance.NodeStatus) {
	cli.Row(w, "NODE", "ADDRESS", "STATE", "SERVES", "LAST HEARD", "CHANGE", "VERSION")
	for _, n := range nodes {
		name, serves, heard := n.ID, "no", "never"
		if n.ID == own {
			name += " (this one)"
		}
		if n.Serves {
			serves = fmt.Sprintf("for %d s", n.FreshSeconds)
		}
		if !n.LastHeard.IsZero() {
			heard = cli.When(n.LastHeard)
		}
		change := fmt.Sprint(n.Position.Number)
		if n.Behind > 0 {
			change += fmt.Sprintf(", %d behind", n.Behind)
		}
		cli.Row(w, name, n.Address, string(n.State), serves, heard, change, cli.OrDash(n.Version))
	}
}
