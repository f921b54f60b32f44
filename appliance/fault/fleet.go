package fault

// The codes of a fleet and its database.
const (
	DatabaseAway  Code = "E_DATABASE_AWAY"
	FleetFounding Code = "E_FLEET_FOUNDING"
)

var fleetCodes = []Entry{
	{Code: DatabaseAway, Class: TryAgain,
		Title: "The fleet's database cannot be reached, or did not answer in time. A change may have been made.",
		Do:    "Check the network and the database that `state.database` names. The appliance asks again by itself. Read again what was to be changed before you repeat a change."},
	{Code: FleetFounding, Class: TryAgain,
		Title: "Another node of the fleet is making the installation.",
		Do:    "Wait: this node takes it over when it is made."},
}
