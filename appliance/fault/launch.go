package fault

// The codes of the launch file on its machine.
const (
	LaunchMissing   Code = "E_LAUNCH_MISSING"
	LaunchFile      Code = "E_LAUNCH_FILE"
	LaunchSignature Code = "E_LAUNCH_SIGNATURE"
	LaunchOwner     Code = "E_LAUNCH_OWNER"
	LaunchVersion   Code = "E_LAUNCH_VERSION"
	LaunchIgnored   Code = "E_LAUNCH_IGNORED"
)

var launchCodes = []Entry{
	{Code: LaunchMissing, Class: WrongState,
		Title: "The image asks for a launch file, and there is none.",
		Do:    "Write one with `holdfast launch new`, sign it with `holdfast launch sign FILE --key FILE --version 2 --out FILE --user-data FILE`, and launch the machine with that user data."},
	{Code: LaunchFile, Class: WrongState,
		Title: "The launch file cannot be read, or sets what this image does not take.",
		Do:    "Correct what the reason names, sign the file again with a higher version, and give it to the machine with `holdfast launch install FILE`; `holdfast launch check FILE` finds most mistakes before."},
	{Code: LaunchSignature, Class: Refused,
		Title: "The launch file is not signed by the owner whom it names: it was changed, or its signature was.",
		Do:    "Find out who changed it. Put the launch file back that the owner has signed, and restart the machine."},
	{Code: LaunchOwner, Class: Refused,
		Title: "The launch file is signed by another owner than the one that this machine has.",
		Do:    "Find out who put it there, and put the owner's launch file back. To exchange the owner's key, sign with the old one as well: `holdfast launch sign FILE --key FILE --key-before FILE --version 2 --out FILE`."},
	{Code: LaunchVersion, Class: Refused,
		Title: "The launch file is older than the one that this machine had, or is another one of the same version.",
		Do:    "Put the newest launch file back, or sign this one with a higher version."},
	{Code: LaunchIgnored, Class: WrongState,
		Title: "The user data have another launch file than the machine has. They are ignored.",
		Do:    "Find out who changed the user data. To change the launch file, do it as docs/launch.md says."},
}
