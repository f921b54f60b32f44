package fault

import "net/http"

// The codes of what the TPM has sealed: the HSM's PIN and the state volume's key.
const (
	SealMissing   Code = "E_SEAL_MISSING"
	SealFile      Code = "E_SEAL_FILE"
	SealPCRs      Code = "E_SEAL_PCRS"
	SealRevoked   Code = "E_SEAL_REVOKED"
	SealSignature Code = "E_SEAL_SIGNATURE"
	SealTPM       Code = "E_SEAL_TPM"
	SealMade      Code = "E_SEAL_MADE"
	SealVolume    Code = "E_SEAL_VOLUME"
	SealOwner     Code = "E_SEAL_OWNER"
	SealApproval  Code = "E_SEAL_APPROVAL"
	SealByOwner   Code = "E_SEAL_BY_OWNER"
	PINOwner      Code = "E_PIN_OWNER"
	PINChallenge  Code = "E_PIN_CHALLENGE"
	PINKey        Code = "E_PIN_KEY"
	PINServes     Code = "E_PIN_SERVES"
	PINCapped     Code = "E_PIN_CAPPED"
	PINEarly      Code = "E_PIN_EARLY"
	TPMFailed     Code = "E_TPM"
	MachineKey    Code = "E_MACHINE_KEY"
	Unsealed      Code = "E_UNSEALED"
)

// givePIN is the command by which an owner gives a machine its PIN.
const givePIN = "`holdfast pin give https://HOST:9443 --owner FILE --launch FILE --policy FILE --policy-key FILE`"

var sealCodes = []Entry{
	{Code: SealMissing, Class: TryAgain,
		Title: "No PIN is sealed on this machine yet.",
		Do:    "Give the PIN with `holdfast seal`; as the owner of a machine with a launch file, with " + givePIN + ". The boot goes on by itself."},
	{Code: SealFile, Class: WrongState,
		Title: "A sealed or signed file cannot be read.",
		Do:    "Put the right file in its place. If it is the sealed PIN, give the PIN again with `holdfast seal`. Then restart the machine. A machine with an owner waits for " + givePIN + ", without a restart."},
	{Code: SealPCRs, Class: Refused,
		Title: "The machine is in no state that was authorized to have the secret.",
		Do:    "Read in the reason which PCR differs. Start the image that was authorized, or authorize this one with a new signed policy."},
	{Code: SealRevoked, Class: Refused,
		Title: "The authorization was revoked in this machine's TPM.",
		Do:    "Start a newer release. If the reason says that it is the owner's, approve the release with a higher version: `holdfast policy approve FILE --seal-key FILE --publisher-key FILE --launch FILE --version 2 --out FILE`."},
	{Code: SealSignature, Class: Refused,
		Title: "An authorization is not signed by the seal key under which the secret was sealed.",
		Do:    "Start an image with the former seal key; or use a new state volume, restore a backup to it, and give the PIN again."},
	{Code: SealTPM, Class: Refused,
		Title: "The secret was sealed by another TPM, or this TPM's owner was cleared.",
		Do:    "Start the machine that it belongs to; or use a new state volume, restore a backup to it, and give the PIN again."},
	{Code: SealMade, Class: Refused,
		Title: "The TPM's proof of how the sealed object was made is missing, or does not hold.",
		Do:    "Find out who put the object there. If it is the PIN, give the PIN again with `holdfast seal`, and restart the machine; a machine with an owner waits for " + givePIN + ", without a restart. If it is the state volume, attach the right disk; or attach an empty one, restart the machine, and restore a backup to it."},
	{Code: SealVolume, Class: Refused,
		Title: "The PIN was not sealed on this state volume.",
		Do:    "If you have put a new volume in the place of a lost one, or an earlier release sealed the PIN, give the PIN again with `holdfast seal`, and restart the machine; a machine with an owner waits for " + givePIN + ", without a restart. If not, somebody has put another volume or another sealed PIN there: find out who before you give a PIN."},
	{Code: SealOwner, Class: Refused,
		Title: "The PIN was not sealed to the owner of this machine.",
		Do:    "If you know why, as the machine had no owner or another one before, give the PIN again with " + givePIN + ". After an exchange of the owner's key put successions.json beside the launch file and restart the machine. If not, somebody has put another sealed PIN there: find out who before you give a PIN."},
	{Code: SealApproval, Class: Refused,
		Title: "The owner has not approved what runs on this machine with this launch file.",
		Do:    "Read in the reason which PCR differs. If it is what you want to run, approve it with `holdfast policy approve FILE --seal-key FILE --publisher-key FILE --launch FILE --version 1 --out FILE`, put that file beside the launch file as approvals.json, and restart the machine. If not, start the release that you have approved, with the launch file that you have signed."},
	{Code: SealByOwner, Class: WrongState, Status: http.StatusConflict,
		Title: "This machine has an owner, who alone gives it the PIN.",
		Do:    "Give the PIN with " + givePIN + ", which checks the machine before."},
	{Code: PINOwner, Class: Refused,
		Title: "The PIN was not given by the owner of this machine, or the machine has no owner.",
		Do:    "Give it with the key that has signed the launch file of this machine. A machine without a launch file gets its PIN by `holdfast seal`."},
	{Code: PINChallenge, Class: Refused,
		Title: "The PIN was given for a challenge that is not this machine's, is older than a minute, or was used already.",
		Do:    "Give the PIN again. If you have not given it, somebody repeats what you sent, or sends it to another machine: it was refused."},
	{Code: PINKey, Class: Refused,
		Title: "The PIN was encrypted to another key than this machine's.",
		Do:    "Give the PIN again. If it stays, something between you and the machine changes what it sends."},
	{Code: PINServes, Class: WrongState, Status: http.StatusConflict,
		Title: "The machine has its PIN already.",
		Do:    "There is nothing to give. To exchange the PIN, change it in the HSM and restart the machine; if the former one stays sealed, remove it from the machine's disk."},
	{Code: PINCapped, Class: WrongState, Status: http.StatusConflict,
		Title: "The machine's boot has ended, and its TPM is capped: it takes no PIN.",
		Do:    "Read why the boot ended, correct that, and restart the machine. Give the PIN when it waits for it."},
	{Code: PINEarly, Class: TryAgain, Status: http.StatusConflict,
		Title: "The machine's boot has not come to the point where it needs the PIN.",
		Do:    "Wait a few seconds, and give the PIN again."},
	{Code: TPMFailed, Class: ClassInternal,
		Title: "The TPM failed, or the machine has none.",
		Do:    "Read the reason, and restart the machine. Launch it with a TPM 2.0 if it has none."},
	{Code: MachineKey, Class: TryAgain,
		Title: "The key by which this machine authenticates users while the appliance is locked is not there, so nobody can sign in.",
		Do:    "Wait until the boot has measured the machine, and try again. If the boot ended before that, correct what its reason names, and restart the machine."},
	{Code: Unsealed, Class: Refused,
		Title: "While the appliance is locked, a row has no seal of this machine.",
		Do:    "Unlock the appliance: it then tells whether the row is good. If it is not, remove the user or token, and make it again."},
}
