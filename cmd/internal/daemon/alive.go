package daemon

import (
	"context"
	"net/http"

	"holdfast/appliance/machine/boot/progress"
)

// statusLine is what the service manager shows of a state of the boot.
func statusLine(s progress.Status) string {
	line := string(s.State)
	if s.Code != "" {
		line += ": " + s.Code + " " + s.Reason
	}
	return line
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
