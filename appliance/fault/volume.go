package fault

// The codes of the state volume.
const (
	VolumeDisk     Code = "E_VOLUME_DISK"
	VolumeHeader   Code = "E_VOLUME_HEADER"
	VolumeOpen     Code = "E_VOLUME_OPEN"
	VolumeMeasured Code = "E_VOLUME_MEASURED"
	StateVolume    Code = "E_STATE_VOLUME"
)

var volumeCodes = []Entry{
	{Code: VolumeDisk, Class: WrongState,
		Title: "There is no disk for the state, or several could be it, or it cannot be read.",
		Do:    "Attach one disk without partitions, detach the others, and restart the machine."},
	{Code: VolumeHeader, Class: Refused,
		Title: "The disk is neither empty nor a volume that Holdfast made, or its header was changed.",
		Do:    "Find out who changed it. Attach the right disk; or attach an empty one, restart the machine, and restore a backup to it."},
	{Code: VolumeOpen, Class: WrongState,
		Title: "The state volume could not be made, opened or mounted, or its file system is damaged.",
		Do:    "Restart the machine once. If that does not help, attach an empty disk, restart it, and restore a backup."},
	{Code: VolumeMeasured, Class: WrongState,
		Title: "PCR 8, which has the identity of the state volume, was extended before the volume was opened.",
		Do:    "Restart the machine. If it comes again, something else in this system extends PCR 8, such as GRUB: start Holdfast's image directly."},
	{Code: StateVolume, Class: WrongState,
		Title: "Nothing says whether the state volume was opened, or the state is not on it.",
		Do:    "Restart the machine, and read its serial console."},
}
