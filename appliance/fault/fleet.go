package fault

// The codes of a fleet and its database.
const (
	DatabaseAway  Code = "E_DATABASE_AWAY"
	FleetFounding Code = "E_FLEET_FOUNDING"
	FleetLog      Code = "E_FLEET_LOG"
	FleetBranch   Code = "E_FLEET_BRANCH"
)

var fleetCodes = []Entry{
	{Code: DatabaseAway, Class: TryAgain,
		Title: "The fleet's database cannot be reached, or did not answer in time. A change may have been made.",
		Do:    "Check the network and the database that `state.database` names. The appliance asks again by itself. Read again what was to be changed before you repeat a change."},
	{Code: FleetFounding, Class: TryAgain,
		Title: "Another node of the fleet is making the installation.",
		Do:    "Wait: this node takes it over when it is made."},
	{Code: FleetLog, Class: WrongState,
		Title: "The fleet's database has a change that no node has made, or lacks some. This node takes over nothing more, and nobody can change anything.",
		Do:    "Find out who has changed the database by hand, or from which backup it was restored. Read the reason: it says which change. Put the database back to what it was; the nodes go on by themselves."},
	{Code: FleetBranch, Class: Refused,
		Title: "The fleet's database shows two nodes two different pasts.",
		Do:    "Find out who has changed or split the database. Keep the nodes that you trust, and stop the others; a node that is to follow those must start with an empty `fleet.db`."},
}
