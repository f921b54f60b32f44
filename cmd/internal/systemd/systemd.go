// Package systemd tells the service manager, where there is one, in which state the
// program is, and that it is alive (sd_notify(3)).
package systemd

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// The states of a service.
const (
	Ready    = daemon.SdNotifyReady
	Stopping = daemon.SdNotifyStopping
)

// Status is what the manager shows of the program.
func Status(line string) string { return "STATUS=" + line }

// Notify tells the manager.
func Notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("the service manager could not be told", "state", state, "error", err)
	}
}

// Watchdog has the manager know, twice in the time that it gives, that the program
// answers; until ctx ends. If it does not, the manager ends it.
func Watchdog(ctx context.Context, log *slog.Logger, alive func(context.Context) bool) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("the service manager's watchdog cannot be understood", "error", err)
	}
	if every <= 0 {
		return
	}
	t := time.NewTicker(every / 2)
	defer t.Stop()
	for {
		if alive(ctx) {
			Notify(log, daemon.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
