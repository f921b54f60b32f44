package modules

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/cli"
	"holdfast/hsm/process"
	"holdfast/hsm/units"
)

// managerTimeout is how long systemd may take to prepare the units of a member.
const managerTimeout = time.Minute

// Manager prepares the units of a member of the HSM cluster.
func Manager() *cobra.Command {
	var owner, ended string
	c := &cobra.Command{
		Use:    "units",
		Short:  "Prepare the units of PKCS#11 modules",
		Long:   "Prepare the units in which PKCS#11 modules run. systemd starts it on the image, with a socket\nfor it; it is not for people.",
		Hidden: true,
		Args:   cobra.NoArgs,
	}
	c.Flags().StringVar(&owner, "user", "", "the user who may ask; this one if empty")
	c.Flags().StringVar(&ended, "ended", "", "write how the process of that unit ended, which the environment says")
	c.RunE = cli.Does(func(cmd *cobra.Command, _ []string) error {
		if ended != "" {
			return units.Ended(units.Sockets, ended, os.Getenv("SERVICE_RESULT"), os.Getenv("EXIT_CODE"), os.Getenv("EXIT_STATUS"))
		}
		uid, err := userID(owner)
		if err != nil {
			return cli.Unusable(fmt.Errorf("--user: %w", err))
		}
		l, err := process.Inherit(uid)
		if err != nil {
			return err
		}
		asked, err := l.Accept()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), managerTimeout)
		defer cancel()
		if err := asked.SetDeadline(time.Now().Add(managerTimeout)); err != nil {
			return err
		}
		return units.Manager{Units: "/run/systemd/system", Settings: "/run/holdfast-units", Systemctl: systemctl}.Answer(ctx, asked)
	})
	return c
}

func systemctl(ctx context.Context, arguments ...string) error {
	out, err := exec.CommandContext(ctx, "/usr/bin/systemctl", append([]string{"--no-pager", "--no-ask-password"}, arguments...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(arguments, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
