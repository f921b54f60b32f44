package parts

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"holdfast/appliance/config"
	"holdfast/appliance/fault"
)

// OfThisProcess gives what is measured of this process, as an appliance with that
// configuration.
func OfThisProcess(cfg *config.Config) ([]Part, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return Of(cfg, program, OpenFile)
}

// Of gives what is measured of an appliance with that configuration, which is the
// image's, and whose program and modules are files that open gives. Where the image asks
// for a launch file no module is among them: the launch file names one of the image's,
// which are measured with its root file system.
func Of(cfg *config.Config, program string, open Opener) ([]Part, error) {
	effective, err := cfg.Effective()
	if err != nil {
		return nil, err
	}
	list := []Part{File("binary", program, open), Content("configuration", effective)}
	if cfg.Launch.Required {
		return list, nil
	}
	list = append(list, module("pkcs11-module", cfg.HSM.Module, open))
	modules := []string{cfg.HSM.Module}
	for _, m := range cfg.HSM.Members {
		if m.Module != "" && !slices.Contains(modules, m.Module) {
			modules = append(modules, m.Module)
			list = append(list, module(fmt.Sprintf("pkcs11-module-%d", len(modules)), m.Module, open))
		}
	}
	return list, nil
}

// module is the part of a PKCS#11 module, which an image may lack.
func module(name, path string, open Opener) Part {
	file := File(name, path, open)
	return Part{Name: name, Digest: func() ([]byte, error) {
		digest, err := file.Digest()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fault.Errorf(fault.Measure, "there is no PKCS#11 module %s in this image; build the image with your HSM vendor's module (docs/deploy-aws.md)", cmp.Or(path, "at all"))
		}
		return digest, err
	}}
}
