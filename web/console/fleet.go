package console

import (
	"fmt"
	"time"

	"holdfast/appliance"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

type fleetData struct {
	status        appliance.FleetStatus
	nodes         listed[appliance.NodeStatus]
	now           time.Time
	drain, remove map[string]ui.Form // by the ID of the node
}

func fleet(p *page) (*view, error) {
	status, err := read(p, operation.ShowFleet, operation.Nothing{})
	if err != nil {
		return nil, err
	}
	d := &fleetData{status: status, now: p.now, drain: map[string]ui.Form{}, remove: map[string]ui.Form{}}
	if d.nodes, err = listOf(p, "", operation.ListNodes); err != nil {
		return nil, err
	}
	for i := range d.nodes.Items {
		n := &d.nodes.Items[i]
		revision := operation.Revision(&n.Node)
		if n.State.Serves() && p.may(operation.DrainNode.Capability) {
			drained := "true"
			if n.State == appliance.NodeDrained {
				drained = "false"
			}
			d.drain[n.ID] = p.form(operation.DrainNode, revision, ui.Form{Kind: "quiet", Inline: true, Label: "node " + n.ID}, "node", n.ID, "drained", drained)
		}
		if n.State != appliance.NodeLeaving && n.ID != status.Node && p.may(operation.RemoveNode.Capability) {
			d.remove[n.ID] = p.form(operation.RemoveNode, revision, ui.Form{Kind: "danger", Inline: true, Label: "node " + n.ID}, "node", n.ID)
		}
	}
	return &view{title: "Fleet", body: fleetPage(d)}, nil
}

func nodeName(f *form) operation.NodeName { return operation.NodeName{Node: f.hidden("node")} }

func fleetActions() []action {
	return []action{
		post(operation.DrainNode, func(f *form) operation.Drain {
			return operation.Drain{NodeName: nodeName(f), Drained: f.hidden("drained") == "true"}
		}, then{done: "The node is drained, or resumed, as you asked."}),
		post(operation.RemoveNode, nodeName, then{done: "The node was removed."}),
	}
}

// nodeBadges are how nodes stand, in words.
var nodeBadges = map[appliance.NodeStanding]ui.Badge{
	appliance.NodeStandsJoining:    {Kind: ui.Info, Text: "Joining"},
	appliance.NodeStandsLeaving:    {Kind: ui.Info, Text: "Leaving"},
	appliance.NodeStandsSilent:     {Kind: ui.Bad, Text: "Silent"},
	appliance.NodeStandsNotServing: {Kind: ui.Bad, Text: "Does not serve"},
	appliance.NodeStandsDrained:    {Kind: ui.Warn, Text: "Drained"},
	appliance.NodeStandsServing:    {Kind: ui.OK, Text: "Serves"},
}

func nodeBadge(n *appliance.NodeStatus) ui.Badge { return nodeBadges[n.Standing()] }

func nodeChange(n *appliance.NodeStatus) string {
	if n.Behind > 0 {
		return fmt.Sprintf("%d, %d behind", n.Position.Number, n.Behind)
	}
	return fmt.Sprint(n.Position.Number)
}
