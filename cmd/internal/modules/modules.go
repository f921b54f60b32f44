// Package modules is the process of a PKCS#11 module in the programs that use an HSM: the hidden command
// that such a process is, and what starts it as the configuration says.
package modules

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"holdfast/appliance/config"
	"holdfast/cmd/internal/cli"
	"holdfast/hsm"
	"holdfast/hsm/confine"
	"holdfast/hsm/module"
	"holdfast/hsm/process"
)

// settings are what the process is told before it is confined.
type settings struct {
	Rules    confine.Rules `json:"rules"`
	Landlock bool          `json:"require_landlock,omitempty"`
}

// For gives what starts the module processes of a token. What is hidden stays closed to them.
func For(hidden ...string) func(token config.Member) hsm.Launcher {
	return func(token config.Member) hsm.Launcher {
		p := token.Process
		if p.Socket != "" {
			return process.Unit{Socket: p.Socket}
		}
		text, err := json.Marshal(settings{rules(token, hidden), p.Landlock})
		if err != nil { // strings and numbers
			panic(err)
		}
		return process.Child{Arguments: []string{module.Argument, "--settings", string(text)}, Environment: p.Environment}
	}
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
	// What a variable names that the vendor documents, such as SOFTHSM2_CONF, is read.
	r.Read = append(r.Read, process.Named(os.Environ(), p.Environment...)...)
	return r
}

// Command is the module process.
func Command() *cobra.Command {
	var text, owner string
	c := &cobra.Command{
		Use:    module.Argument,
		Short:  "Be the process of a PKCS#11 module",
		Long:   "Be the process in which a PKCS#11 module runs. The appliance starts it, or systemd with a\nsocket for it; it is not for people.",
		Hidden: true,
		Args:   cobra.NoArgs,
	}
	c.Flags().StringVar(&text, "settings", "{}", "what the process may do (JSON)")
	c.Flags().StringVar(&owner, "user", "", "the user whose connections are taken; this one's if empty")
	c.RunE = cli.Does(func(*cobra.Command, []string) error { return be(text, owner) })
	return c
}

func be(text, owner string) error {
	var s settings
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return cli.Unusable(fmt.Errorf("--settings: %w", err))
	}
	uid := uint64(os.Getuid())
	if owner != "" {
		u, err := user.Lookup(owner)
		if err == nil {
			uid, err = strconv.ParseUint(u.Uid, 10, 32)
		}
		if err != nil {
			return cli.Unusable(fmt.Errorf("--user: %w", err))
		}
	}
	told, err := confine.Self(s.Rules)
	if err != nil {
		return err
	}
	if s.Landlock && told.Landlock == 0 {
		return errors.New("the kernel has no landlock, and hsm.process.require_landlock is true: boot with landlock among the kernel's security modules (lsm=), or leave that out")
	}
	return module.Main(uint32(uid), told.String())
}
