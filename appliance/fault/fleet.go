package fault

// The codes of a fleet and its database.
const (
	DatabaseAway  Code = "E_DATABASE_AWAY"
	FleetFounding Code = "E_FLEET_FOUNDING"
	// DatabaseRefused: who it is, who this node is, or how it commits.
	DatabaseRefused Code = "E_DATABASE_REFUSED"
	DatabaseNewer   Code = "E_DATABASE_NEWER"
	LogDamaged      Code = "E_LOG_DAMAGED"
)

var fleetCodes = []Entry{
	{Code: DatabaseAway, Class: TryAgain,
		Title: "The fleet's database cannot be reached, or did not answer in time. A change may have been made.",
		Do:    "Check the network and the database that `state.database` names. The appliance asks again by itself. Read again what was to be changed before you repeat a change."},
	{Code: FleetFounding, Class: TryAgain,
		Title: "Another node of the fleet is making the installation.",
		Do:    "Wait: this node takes it over when it is made."},
	{Code: DatabaseRefused, Class: TryAgain,
		Title: "The fleet's database and this node do not accept each other: its certificate is not valid, it refuses the login or a permission, or it commits without waiting for its disk. Nothing was changed.",
		Do:    "Correct what the message names, in the database or in the section `[state]` of the configuration. The appliance asks again by itself."},
	{Code: DatabaseNewer, Class: WrongState,
		Title: "The tables of the fleet's database are of a later release, which this one cannot work with.",
		Do:    "Update this node to the release of the other nodes."},
	{Code: LogDamaged, Class: Refused,
		Title: "The fleet's database lacks a table or a row, or has one that Holdfast did not write.",
		Do:    "Find out who changed the database. Restore it to its newest state, with every change that was made."},
}
