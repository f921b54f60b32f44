package fault

import "net/http"

// The codes of a broker, which are not those of checks of the evidence.
const (
	BrokerMachine       Code = "E_BROKER_MACHINE"
	BrokerStopped       Code = "E_BROKER_STOPPED"
	BrokerPolicy        Code = "E_BROKER_POLICY"
	BrokerNonce         Code = "E_BROKER_NONCE"
	BrokerKey           Code = "E_BROKER_KEY"
	BrokerEvidence      Code = "E_BROKER_EVIDENCE"
	BrokerCapped        Code = "E_BROKER_CAPPED"
	BrokerInstance      Code = "E_BROKER_INSTANCE"
	BrokerVolume        Code = "E_BROKER_VOLUME"
	BrokerLog           Code = "E_BROKER_LOG"
	BrokerPolicyVersion Code = "E_BROKER_POLICY_VERSION"
	BrokerRequest       Code = "E_BROKER_REQUEST"
	BrokerBusy          Code = "E_BROKER_BUSY"
	BrokerInternal      Code = "E_BROKER_INTERNAL"
	BrokerPIN           Code = "E_BROKER_PIN"
	BrokerUnreachable   Code = "E_BROKER_UNREACHABLE"
)

// A broker refuses with 403, whatever the class: machines rely on it.
var brokerCodes = []Entry{
	{Code: BrokerMachine, Class: Refused,
		Title: "The broker has no PIN for a machine of that name.",
		Do:    "Give it one with `holdfast broker add MACHINE`, at the broker; or correct release.machine in the machine's configuration. Then restart the machine."},
	{Code: BrokerStopped, Class: Refused,
		Title: "Releases to the machine, or to all, are revoked.",
		Do:    "At the broker, give the PIN again with `holdfast broker add MACHINE`; or end a stop of everything with `holdfast broker resume`."},
	{Code: BrokerPolicy, Class: WrongState, Status: http.StatusForbidden,
		Title: "The broker has no policy yet, or its policy does not prove which code runs.",
		Do:    "Install one at the broker with `holdfast broker policy POLICY --policy-key FILE`."},
	{Code: BrokerNonce, Class: Refused,
		Title: "The evidence was not made for this connection within the last minute.",
		Do:    "Find out whether the machine is slow, or whether an attacker replays old evidence."},
	{Code: BrokerKey, Class: Refused,
		Title: "The evidence names no key to which a credential can be encrypted.",
		Do:    "Find out who asks: Holdfast's own evidence names one."},
	{Code: BrokerEvidence, Class: Refused,
		Title: "A check that the policy needs could not be run.",
		Do:    "Read in the reason which, and give the machine what the policy needs."},
	{Code: BrokerCapped, Class: Refused,
		Title: "Since the machine was started it has had the secret, or has locked itself.",
		Do:    "Restart the machine. If nobody did anything with it, find out who asks."},
	{Code: BrokerPolicyVersion, Class: WrongState, Status: http.StatusForbidden,
		Title: "The policy in the broker's folder is not the one that was installed: it was exchanged by hand, or put back.",
		Do:    "Find out who changed the folder. Then install the right policy at the broker with `holdfast broker policy POLICY --policy-key FILE`, and restart the machine."},
	{Code: BrokerInstance, Class: Refused,
		Title: "Another machine was admitted under that name: another instance, or another TPM; or nobody admitted one.",
		Do:    "Find out which machine asks. If it is the right one, admit it at the broker with `holdfast broker admit MACHINE --request NUMBER`; the reason has the number. Then restart the machine."},
	{Code: BrokerVolume, Class: Refused,
		Title: "The machine has another state volume than the one that was admitted.",
		Do:    "If nobody exchanged the volume, the machine is under attack: keep it for inquiry. If you did, admit it at the broker with `holdfast broker admit MACHINE --request NUMBER`; the reason has the number. Then restart the machine."},
	{Code: BrokerLog, Class: WrongState, Status: http.StatusForbidden,
		Title: "The broker's log is not what the broker has written: it was cut, changed or put back, or the folder is of a former release.",
		Do:    "Look at it with `holdfast broker log --verify`, and find out who changed it. Then begin another at the broker with `holdfast broker begin-log --reason TEXT`, and restart the machine."},
	{Code: BrokerRequest, Class: Refused, Status: http.StatusBadRequest,
		Title: "The broker does not understand the request.",
		Do:    "Find out who asks, or bring machine and broker to the same release."},
	{Code: BrokerBusy, Class: TryAgain, Status: http.StatusTooManyRequests,
		Title: "The broker is asked too often, or by too many at once.",
		Do:    "Wait a minute. The machine tries again by itself."},
	{Code: BrokerInternal, Class: ClassInternal,
		Title: "The broker failed.",
		Do:    "Search the broker's log for the reference in the reason: its line has the cause."},
	{Code: BrokerPIN, Class: Refused,
		Title: "The server that answers has another TLS key than the one that is pinned.",
		Do:    "Find out which server answers. If the broker has a new key, set release.broker_pin to what it prints at its start, and restart the machine."},
	{Code: BrokerUnreachable, Class: TryAgain,
		Title: "The broker cannot be reached, or failed.",
		Do:    "Check the network and the broker. The machine tries again by itself."},
}
