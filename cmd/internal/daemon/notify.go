package daemon

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"holdfast/appliance/machine/boot"
)

// notify tells the service manager, if one listens (sd_notify(3)).
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("the service manager could not be told", "state", state, "error", err)
	}
}

// statusLine is what the service manager shows of a state of the boot.
func statusLine(s boot.Status) string {
	line := "STATUS=" + string(s.State)
	if s.Code != "" {
		line += ": " + s.Code + " " + s.Reason
	}
	return line
}

// watchdog has the service manager know, twice in the time that it gives, that the
// process answers; until ctx ends. If it does not, the manager ends it.
func (d *Daemon) watchdog(ctx context.Context) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		d.o.Log.Warn("the service manager's watchdog cannot be understood", "error", err)
	}
	if every <= 0 {
		return
	}
	t := time.NewTicker(every / 2)
	defer t.Stop()
	for {
		if d.alive(ctx) {
			notify(d.o.Log, daemon.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// alive asks, in the process, for the state of the boot, and whether keys serve. If
// anything of that is stuck, this is as well.
func (d *Daemon) alive(ctx context.Context) bool {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "/boot", nil)
	if err != nil {
		return false
	}
	a := answer{header: http.Header{}}
	d.admin.Handler.ServeHTTP(&a, r)
	d.appliance.Condition()
	return a.status == http.StatusOK
}

// answer keeps the status alone.
type answer struct {
	header http.Header
	status int
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) Write(b []byte) (int, error) { return len(b), nil }
func (a *answer) WriteHeader(status int)      { a.status = status }
