package fault

// The codes of the count of changes that this machine's TPM keeps, and of other anchors.
const (
	Anchor        Code = "E_ANCHOR"
	AnchorForeign Code = "E_ANCHOR_FOREIGN"
	AnchorCount   Code = "E_ANCHOR_COUNT"
	AnchorAway    Code = "E_ANCHOR_AWAY"
)

var anchorCodes = []Entry{
	{Code: Anchor, Class: TryAgain,
		Title: "This machine's TPM does not answer, or refuses to keep the count of changes, so a change is not anchored.",
		Do:    "Read the reason, and restart the machine. Launch it with a TPM 2.0 if it has none."},
	{Code: AnchorForeign, Class: WrongState,
		Title: "Another program uses the NV index of the TPM where the count of changes is kept.",
		Do:    "Find out which program made the NV index that the reason names, and move that one's data elsewhere. Then restart the machine."},
	{Code: AnchorCount, Class: Refused,
		Title: "The TPM's count of changes is not the one that the change needs: an older state is in use, or another program counts.",
		Do:    "Find out who has used the TPM. Then restart the machine."},
	{Code: AnchorAway, Class: TryAgain,
		Title: "An anchor of the state outside of this machine, such as the broker, does not answer. The state is served without it.",
		Do:    "Check the network and the broker. The appliance asks again by itself; `holdfast state verify` shows what it knows."},
}
