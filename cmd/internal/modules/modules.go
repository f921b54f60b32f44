// Package modules is the process of a PKCS#11 module in the programs that use an HSM: the hidden command
// that such a process is, and what starts it as the configuration says.
package modules

import (
	"encoding/json"
	"os"
	"path/filepath"

	"holdfast/appliance/config"
	"holdfast/hsm"
	"holdfast/hsm/confine"
	"holdfast/hsm/module"
	"holdfast/hsm/process"
	"holdfast/hsm/units"
)

// settings are what the process is told before it is confined.
type settings struct {
	Rules    confine.Rules `json:"rules"`
	Landlock bool          `json:"require_landlock,omitempty"`
}

// For gives what starts the module processes of a token, which counts from 1 among those of the
// configuration. What is hidden stays closed to them.
func For(hidden ...string) func(number int, token config.Member) hsm.Launcher {
	pool := &units.Pool{}
	return func(number int, token config.Member) hsm.Launcher {
		p, r := token.Process, rules(token, hidden)
		if p.Unit {
			r.Filtered, r.Addresses = true, p.Networks()
			return pool.Launcher(units.Member{Number: number, Addresses: r.Addresses, Write: p.Write, MemoryBytes: r.MemoryBytes, Settings: settings{r, p.Landlock}.json()})
		}
		// What a variable names that the vendor documents, such as SOFTHSM2_CONF, is read.
		r.Read = append(r.Read, process.Named(os.Environ(), p.Environment...)...)
		return process.Child{Arguments: []string{module.Argument, "--settings", string(settings{r, p.Landlock}.json())}, Environment: p.Environment}
	}
}

func (s settings) json() []byte {
	text, err := json.Marshal(s)
	if err != nil { // strings and numbers
		panic(err)
	}
	return text
}

// Secrets are what the configuration keeps from module processes: the state, and files with secrets.
func Secrets(c *config.Config) (hidden []string) {
	for _, path := range []string{
		c.State.Dir, "/etc/holdfast", c.XKS.Key, c.Release.SealedPIN, c.State.DatabasePasswordFile, c.State.DatabaseKey,
		c.Admin.OIDC.ClientSecretFile, c.Notify.SMTP.PasswordFile, c.Notify.Webhook.SecretFile,
	} {
		if path != "" {
			hidden = append(hidden, path)
		}
	}
	return hidden
}

// DefaultMemoryMiB bounds the memory of a module process where the configuration does not, in MiB.
const DefaultMemoryMiB = 1024

func rules(token config.Member, hidden []string) confine.Rules {
	p := token.Process
	r := confine.Rules{Read: p.Read, Write: p.Write, Hidden: hidden, AnyPort: len(p.Ports) == 0, MemoryBytes: DefaultMemoryMiB << 20}
	if p.MemoryMiB > 0 {
		r.MemoryBytes = uint64(p.MemoryMiB) << 20
	}
	for _, port := range p.Ports {
		r.ConnectPorts = append(r.ConnectPorts, uint16(port)) // the configuration was checked
	}
	// A module that is not there is the module process's to tell, when it loads it.
	if real, err := filepath.EvalSymlinks(token.Module); err == nil {
		r.Read = append([]string{filepath.Dir(real)}, r.Read...)
	}
	return r
}
