package fault

import "slices"

// The codes of a fleet and its database.
const (
	DatabaseAway  Code = "E_DATABASE_AWAY"
	FleetFounding Code = "E_FLEET_FOUNDING"
	FleetLog      Code = "E_FLEET_LOG"
	FleetBranch   Code = "E_FLEET_BRANCH"
	FleetBehind   Code = "E_FLEET_BEHIND"
	// DatabaseRefused: who it is, who this node is, or how it commits.
	DatabaseRefused Code = "E_DATABASE_REFUSED"
	DatabaseNewer   Code = "E_DATABASE_NEWER"
	// FleetNewer: the rows; FleetUpdating: something that not all nodes have.
	FleetNewer    Code = "E_FLEET_NEWER"
	FleetUpdating Code = "E_FLEET_UPDATING"
	FleetStale    Code = "E_FLEET_STALE"
	FleetJoining  Code = "E_FLEET_JOINING"
	FleetRemoved  Code = "E_FLEET_REMOVED"
	FleetMessage  Code = "E_FLEET_MESSAGE"
	FleetFenced   Code = "E_FLEET_FENCED"
)

// OfFleet says whether a code is of a fleet and its database. Such an error is about this node
// and the log, and says nothing of what was asked for, nor of who asked.
func (c Code) OfFleet() bool {
	return slices.ContainsFunc(fleetCodes, func(e Entry) bool { return e.Code == c })
}

var fleetCodes = []Entry{
	{Code: DatabaseAway, Class: TryAgain,
		Title: "The fleet's database cannot be reached, or did not answer in time. A change may have been made.",
		Do:    "Check the network and the database that `state.database` names. The appliance asks again by itself. Read again what was to be changed before you repeat a change."},
	{Code: FleetFounding, Class: TryAgain,
		Title: "Another node of the fleet is making the installation.",
		Do:    "Wait: this node takes it over when it is made."},
	{Code: FleetLog, Class: WrongState,
		Title: "The fleet's database has something that no node has written, or lacks a change, a row or a table. This node takes over nothing more, and nobody can change anything.",
		Do:    "Find out who has changed the database by hand, or from which backup it was restored. Read the reason: it says which change. Put the database back to what it was; the nodes go on by themselves."},
	{Code: FleetBehind, Class: TryAgain,
		Title: "This node was away for so long that the fleet's database has forgotten changes that it lacks.",
		Do:    "Wait: it loads the newest snapshot by itself."},
	{Code: FleetBranch, Class: Refused, XKS: internalName,
		Title: "The fleet's database shows two nodes two different pasts.",
		Do:    "Find out who has changed or split the database. Keep the nodes that you trust, and stop the others; a node that is to follow those must start with an empty `fleet.db`."},
	{Code: DatabaseRefused, Class: TryAgain,
		Title: "The fleet's database and this node do not accept each other: its certificate is not valid, it refuses the login or a permission, or it commits without waiting for its disk. Nothing was changed.",
		Do:    "Correct what the message names, in the database or in the section `[state]` of the configuration. The appliance asks again by itself."},
	{Code: DatabaseNewer, Class: WrongState,
		Title: "The tables of the fleet's database are of a later release, which this one cannot work with.",
		Do:    "Update this node to the release of the other nodes."},
	{Code: FleetNewer, Class: WrongState, XKS: internalName,
		Title: "The fleet's rows are of a later release, which this one cannot work with. This node does not serve. Its rows are as they were.",
		Do:    "Update this node to the release of the other nodes. It keeps its files and goes on from there."},
	{Code: FleetUpdating, Class: WrongState,
		Title: "The fleet has nodes of an earlier release, which do not know what this needs. Nothing was changed.",
		Do:    "Run `holdfast fleet status`, which shows the version of each node. Update those that are behind, or remove those that are gone for good: `holdfast fleet remove NODE`. Then try again after a minute."},
	{Code: FleetStale, Class: TryAgain, XKS: internalName,
		Title: "For as long as `fleet.grace` says, this node could not find out whether it lacks a change. It does not serve, and begins again by itself.",
		Do:    "Run `holdfast fleet status`. Mend the network to the nodes that do not answer, or the database and the HSM. Remove a node that is gone for good: `holdfast fleet remove NODE`."},
	{Code: FleetJoining, Class: TryAgain, XKS: internalName,
		Title: "This node has not joined the fleet yet.",
		Do:    "Wait: it joins by itself once another node answers it. If all other nodes are gone for good, remove them: `holdfast fleet remove NODE`."},
	{Code: FleetRemoved, Class: WrongState, XKS: internalName,
		Title: "This node was removed from the fleet. It does not serve.",
		Do:    "Switch it off. To have the machine in the fleet again, as a new node, move its state folder away and start it. If its TPM has known the state of before (`E_STATE_ROLLED_BACK`), run `holdfast state accept --reason TEXT` at that node."},
	{Code: FleetFenced, Class: ClassStale,
		Title: "Another node has taken over the work that one node does for the whole fleet.",
		Do:    "Nothing: the other node does it."},
	{Code: FleetMessage, Class: Refused,
		Title: "A message between nodes was not made by an unlocked node of this installation, or not for this call.",
		Do:    "If it goes on, look whether the nodes have the same database and HSM, and who else can reach the administrators' listener."},
}
