package console

import (
	"fmt"
	"time"

	"holdfast/appliance"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

type hsmsData struct {
	status operation.Status
	now    time.Time
	probe  ui.Form
}

func hsms(p *page) (*view, error) {
	status, err := read(p, operation.ShowStatus, operation.Nothing{})
	if err != nil {
		return nil, err
	}
	d := &hsmsData{now: p.now, status: status}
	d.probe = p.form(operation.ProbeHSMs, "", ui.Form{Kind: "quiet"})
	return &view{title: "HSMs", body: hsmsPage(d)}, nil
}

// moduleProcess says which process an HSM's PKCS#11 module runs in.
func moduleProcess(p appliance.ModuleProcess) string {
	if p.PID == 0 {
		return "none"
	}
	return fmt.Sprintf("%d, %d MiB, number %d since the start", p.PID, p.MemoryBytes>>20, p.Starts)
}

// lastEnd says how the last module process ended that was not to be replaced.
func lastEnd(e *appliance.ModuleEnd) string {
	if e == nil {
		return "none since the start"
	}
	return fmt.Sprintf("%s, %s: %s; %s", e.Time.Format(time.DateTime+" MST"), e.Cause, e.Reason, e.Do)
}
