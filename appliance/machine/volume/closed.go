package volume

import "holdfast/appliance/fault"

// Closed says why the volume of the state's folder is not open, from the file in
// which the opener left its word; nil if it is open, or if the file's name is empty. It
// gives the identity that was measured for the volume, nil if none was.
func Closed(file, dir string) (identity []byte, closed *fault.Fault) {
	if file == "" {
		return nil, nil
	}
	o, err := Read(file)
	device := uint64(0)
	if err == nil && o.Device != 0 {
		device, err = DeviceOf(dir)
	}
	switch {
	case err != nil && o == nil:
		return nil, fault.Wrapf(fault.StateVolume, err, "it is not known whether the state volume was opened; restart the machine, and read its serial console")
	case !o.Opened:
		return o.Identity, fault.Decoded(o.Code, "the state volume was not opened: "+o.Reason)
	case err != nil:
		return o.Identity, fault.Wrapf(fault.StateVolume, err, "it is not known whether %s is on the state volume; restart the machine, and read its serial console", dir)
	case device != o.Device:
		return o.Identity, fault.Errorf(fault.StateVolume, "%s is not on the state volume, so that nothing written there would last; restart the machine, and read its serial console", dir)
	}
	return o.Identity, nil
}
