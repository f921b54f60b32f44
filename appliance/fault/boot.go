package fault

import "net/http"

// The codes of a boot, which are not those of checks of the evidence.
const (
	BootInternal     Code = "E_INTERNAL"
	PolicyFile       Code = "E_POLICY_FILE"
	PolicyUnproven   Code = "E_POLICY_UNPROVEN"
	PolicyVersion    Code = "E_POLICY_VERSION"
	PolicyStored     Code = "E_POLICY_STORED"
	Platform         Code = "E_PLATFORM"
	Measure          Code = "E_MEASURE"
	MeasuredTwice    Code = "E_MEASURED_TWICE"
	Collect          Code = "E_COLLECT"
	Appraise         Code = "E_APPRAISE"
	CapFailed        Code = "E_CAP"
	AttestationLease Code = "E_ATTESTATION_LEASE"
	HSMPIN           Code = "E_HSM_PIN"
	HSMToken         Code = "E_HSM_TOKEN"
	HSMAmbiguous     Code = "E_HSM_AMBIGUOUS"
	HSMAway          Code = "E_HSM_AWAY"
	HSMLease         Code = "E_HSM_LEASE"
	KeyStoreOut      Code = "E_KEY_STORE_OUT"
	Unlock           Code = "E_UNLOCK"
	UnlockAway       Code = "E_UNLOCK_AWAY"
	HSMObject        Code = "E_HSM_OBJECT"
	StateMissing     Code = "E_STATE_MISSING"
	StateSuperseded  Code = "E_STATE_SUPERSEDED"
)

var bootCodes = []Entry{
	{Code: BootInternal, Class: ClassInternal,
		Title: "An error that no other code describes ended the boot.",
		Do:    "Read the reason, correct what it names, and restart the machine."},
	{Code: PolicyFile, Class: WrongState,
		Title: "The signed appraisal policy is missing, damaged, or not signed by the image's key.",
		Do:    "Give the machine the right policy with `holdfast policy install FILE`, or start the right image."},
	{Code: PolicyUnproven, Class: Refused,
		Title: "The policy does not prove which code runs, and no words force its use.",
		Do:    "Add what the reason names to the policy, and sign it again with `holdfast policy sign POLICY --key FILE --out FILE`."},
	{Code: PolicyVersion, Class: Refused,
		Title: "The policy is older than one that this appliance had, or another one of the same version, or this machine's TPM has revoked it.",
		Do:    "Install a policy with a higher version with `holdfast policy install FILE`, or start the newer release."},
	{Code: PolicyStored, Class: WrongState,
		Title: "A policy, or a file of authorizations or approvals, lies on this machine and does not count. The others are in force.",
		Do:    "Find out who changed the file that the reason names. Give the machine the newest policy again with `holdfast policy install FILE --authorizations FILE`."},
	{Code: Platform, Class: WrongState,
		Title: "Hardware that the policy requires is not there.",
		Do:    "Launch the machine as the reason says. SEV-SNP cannot be switched on later."},
	{Code: Measure, Class: WrongState,
		Title: "A part of the appliance cannot be measured; most often the image has no PKCS#11 module.",
		Do:    "Build the image with your HSM vendor's module, as docs/operations.md#the-image describes."},
	{Code: MeasuredTwice, Class: WrongState,
		Title: "The application's PCR was extended before this boot: Holdfast ran already since the machine was started.",
		Do:    "Restart the machine."},
	{Code: Collect, Class: WrongState,
		Title: "No evidence could be made.",
		Do:    "Correct what the reason names, and restart the machine."},
	{Code: Appraise, Class: Refused,
		Title: "The evidence does not meet the policy, as not every check could be run.",
		Do:    "Read in the attestation report which check was not run, correct that, and restart the machine."},
	{Code: CapFailed, Class: ClassInternal,
		Title: "The application's PCR could not be capped: the TPM may release the PIN or the volume's key to another process.",
		Do:    "Restart the machine at once."},
	{Code: AttestationLease, Class: WrongState,
		Title: "Evidence could not be renewed for longer than the lease, and all keys are wiped.",
		Do:    "Correct what the reason names, and restart the machine."},
	{Code: HSMPIN, Class: Refused,
		Title: "The HSM refuses the PIN. It was tried once at most, because HSMs lock after a few wrong PINs.",
		Do:    "If the PIN is wrong, restart the machine, and give the right one when it waits for it (`holdfast seal`; its owner by " + givePIN + "); with a broker give it there before. If the reason says that the PIN is locked or was not tried, do what it says, and restart the machine."},
	{Code: HSMToken, Class: TryAgain,
		Title: "The HSM's token cannot be opened.",
		Do:    "Check the network, the HSM, and the module's configuration. The boot tries again by itself."},
	{Code: HSMAmbiguous, Class: WrongState,
		Title: "The configuration's name of the HSM's token, or of its master key, fits more than one.",
		Do:    "Read in the reason which. Name the token with hsm.token_serial; of several key objects with one label, rename or destroy all but the right one with the HSM's own tools. Then restart the machine."},
	{Code: HSMAway, Class: TryAgain,
		Title: "The HSM does not answer. Keys in memory serve until the lease ends.",
		Do:    "Check the HSM and its network."},
	{Code: HSMLease, Class: TryAgain,
		Title: "The HSM was away for longer than its lease, and no key serves.",
		Do:    "Check the HSM and its network. Keys serve again when it answers."},
	{Code: KeyStoreOut, Class: TryAgain,
		Title: "A key store is out of service: its key could not be opened, or its rows could not be read. The others serve.",
		Do:    "Nothing, if the HSM or the disk failed for a moment: it is tried again every minute at least. If it stays, `holdfast status` names the key store and the reason."},
	{Code: Unlock, Class: WrongState,
		Title: "The HSM opened and the keys did not, mostly because it has another master key.",
		Do:    "Correct what the reason names; mostly, connect the HSM that has the master key. Then restart the machine."},
	{Code: UnlockAway, Class: TryAgain,
		Title: "The HSM or the database failed while the keys were unlocked.",
		Do:    "Check the HSM and its network. The boot tries again by itself."},
	{Code: HSMObject, Class: WrongState, Status: http.StatusConflict,
		Title: "The HSM does not let its user make a data object, which names the copy of the installation that may destroy keys.",
		Do:    "Permit the HSM's user to make and remove data objects (CKO_DATA). If the HSM cannot, set hsm.no_installation_object = true in the configuration: then Holdfast never destroys a key in the HSM. Then restart the machine."},
	{Code: StateMissing, Class: WrongState, Status: http.StatusConflict,
		Title: "The database has no installation, and the HSM, the audit log or the TPM has traces of one: the database was lost, or this is another machine's HSM.",
		Do:    "Put the database back, or restore a backup with `holdfast restore FILE`. To begin a new installation on purpose: `holdfast installation begin --reason TEXT`."},
	{Code: StateSuperseded, Class: WrongState, Status: http.StatusConflict,
		Title: "The HSM names another copy of this installation as the one that counts, and this copy does not serve.",
		Do:    "Use the other copy. If this one is to count, stop the other one and call `holdfast installation takeover --reason TEXT`."},
}
