package fault

// The codes of the state: all rows as a whole.
const (
	StateChanged    Code = "E_STATE_CHANGED"
	StateSchema     Code = "E_STATE_SCHEMA"
	StateUnsealed   Code = "E_STATE_UNSEALED"
	StateRolledBack Code = "E_STATE_ROLLED_BACK"
	StateAnchor     Code = "E_STATE_ANCHOR"
	StateLoss       Code = "E_STATE_LOSS"
	// AdmissionUnconfirmed and AdmissionChanged are about who is sealed by the first unlock.
	AdmissionUnconfirmed Code = "E_ADMISSION_UNCONFIRMED"
	AdmissionChanged     Code = "E_ADMISSION_CHANGED"
	StateDamaged         Code = "E_STATE_DAMAGED"
	StateForeign         Code = "E_STATE_FOREIGN"
)

const acceptOrRestore = "Find out who changed it. Then put the right state back and restart; or restore a backup into a fresh appliance; or, if two people agree that this state is the right one, run `holdfast state accept --reason TEXT`."

var stateCodes = []Entry{
	{Code: StateChanged, Class: Refused,
		Title: "Rows of the database were changed, removed, added or put back by something else than Holdfast.",
		Do:    acceptOrRestore},
	{Code: StateSchema, Class: Refused,
		Title: "The database's schema has something that is not Holdfast's, such as a trigger, a view or an index, or lacks something.",
		Do:    "Find out who changed it. Restore a backup into a fresh appliance."},
	{Code: StateUnsealed, Class: Refused,
		Title: "The database lacks the manifest that authenticates its rows.",
		Do:    acceptOrRestore},
	{Code: StateRolledBack, Class: Refused,
		Title: "The database is older than an anchor outside of it says: an earlier copy was put back.",
		Do:    acceptOrRestore},
	{Code: StateAnchor, Class: WrongState,
		Title: "The anchor that the state names cannot be read, is gone, or is another machine's.",
		Do:    "Restart the machine. If the volume was moved to another machine on purpose, run `holdfast state accept --reason TEXT`."},
	{Code: StateLoss, Class: Refused,
		Title: "The end of the database's write-ahead log is damaged or cut off: changes that were made may be lost.",
		Do:    acceptOrRestore},
	{Code: AdmissionUnconfirmed, Class: WrongState,
		Title: "The first unlock is about to seal users, API tokens, invitations and settings, and nobody has confirmed that they are the right ones.",
		Do:    "Look at them in the console, or with `holdfast admission show`. Confirm them there, or with `holdfast admission confirm --admission DIGEST`. If somebody is among them whom you do not know, remove that user, token or invitation before."},
	{Code: AdmissionChanged, Class: ClassStale,
		Title: "Those who were confirmed are not those who would be sealed now: somebody was added, removed or changed in between.",
		Do:    "Look at them again, in the console or with `holdfast admission show`, and confirm them as they are now."},
	{Code: StateDamaged, Class: Refused,
		Title: "The database is damaged, or has rows that its own schema forbids: its disk has failed, or something else than Holdfast has written to it.",
		Do:    "Move the database away and keep it for inquiry. Restart the machine, and restore the last good backup."},
	{Code: StateForeign, Class: Refused,
		Title: "The file is not a database of Holdfast.",
		Do:    "Give the folder of the state, or the path of its database, `holdfast.db`."},
}
