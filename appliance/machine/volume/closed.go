package volume

import "holdfast/appliance/fault"

// Closed says why the volume of the state's folder is not open, from the file in
// which the opener left its word; nil if it is open, or if the file's name is empty.
func Closed(file, dir string) *fault.Fault {
	if file == "" {
		return nil
	}
	o, err := Read(file)
	device := uint64(0)
	if err == nil && o.Device != 0 {
		device, err = DeviceOf(dir)
	}
	switch {
	case err != nil:
		return fault.Wrapf(fault.StateVolume, err, "it is not known whether the state volume was opened; restart the machine, and read its serial console")
	case !o.Opened:
		return fault.Decoded(o.Code, "the state volume was not opened: "+o.Reason)
	case device != o.Device:
		return fault.Errorf(fault.StateVolume, "%s is not on the state volume, so that nothing written there would last; restart the machine, and read its serial console", dir)
	}
	return nil
}
