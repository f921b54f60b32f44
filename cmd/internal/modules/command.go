package modules

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/cli"
	"holdfast/cmd/internal/systemd"
	"holdfast/hsm/confine"
	"holdfast/hsm/module"
	"holdfast/hsm/process"
)

// Command is the module process.
func Command() *cobra.Command {
	var text, file, owner string
	c := &cobra.Command{
		Use:    module.Argument,
		Short:  "Be the process of a PKCS#11 module",
		Long:   "Be the process in which a PKCS#11 module runs. The appliance starts it, or systemd with a\nsocket for it; it is not for people.",
		Hidden: true,
		Args:   cobra.NoArgs,
	}
	c.Flags().StringVar(&text, "settings", "{}", "what the process may do (JSON)")
	c.Flags().StringVar(&file, "settings-file", "", "a file that has it, of a unit of systemd")
	c.Flags().StringVar(&owner, "user", "", "the user whose connections are taken; this one's if empty")
	c.MarkFlagsMutuallyExclusive("settings", "settings-file")
	c.RunE = cli.Does(func(cmd *cobra.Command, _ []string) error {
		uid, err := userID(owner)
		if err != nil {
			return cli.Unusable(fmt.Errorf("--user: %w", err))
		}
		s, err := read(text, file)
		if err != nil {
			return err
		}
		return be(cmd.Context(), s, uid)
	})
	return c
}

func userID(name string) (uint32, error) {
	if name == "" {
		return uint32(os.Getuid()), nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, err
	}
	id, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(id), err
}

// maxSettings bounds the file of a unit's settings, in bytes.
const maxSettings = 64 << 10

// read gives the settings. Those of a unit open what systemd has told the unit's process as well.
func read(text, file string) (s settings, err error) {
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return s, cli.Unusable(fmt.Errorf("--settings-file: %w", err))
		}
		defer f.Close()
		all, err := io.ReadAll(io.LimitReader(f, maxSettings))
		if err != nil {
			return s, fmt.Errorf("--settings-file: %w", err)
		}
		text = string(all)
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return s, cli.Unusable(fmt.Errorf("--settings: %w", err))
	}
	if file == "" {
		return s, nil
	}
	s.Rules.Read = append(append(s.Rules.Read, file), process.Named(os.Environ())...)
	if notify := os.Getenv("NOTIFY_SOCKET"); filepath.IsAbs(notify) {
		s.Rules.Write = append(s.Rules.Write, notify) // of the unit's watchdog
	}
	return s, nil
}

func be(ctx context.Context, s settings, uid uint32) error {
	told, err := confine.Self(s.Rules)
	if err != nil {
		return err
	}
	if s.Landlock && told.Landlock == 0 {
		return errors.New("the kernel has no landlock, and hsm.process.require_landlock is true: boot with landlock among the kernel's security modules (lsm=), or leave that out")
	}
	// One that cannot run at all any more is ended by its unit.
	go systemd.Watchdog(ctx, slog.New(slog.DiscardHandler), func(context.Context) bool { return true })
	return module.Main(uid, told.String())
}
