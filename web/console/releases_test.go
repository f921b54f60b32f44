package console_test

import (
	"strings"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/web/webtest"
)

// TestBrokersRecords: the page of boots and releases has what the broker has on record, says
// that the broker does not tell if it does not, and says nothing of one where there is none.
func TestBrokersRecords(t *testing.T) {
	const evil = "<script>alert(1)</script>"
	r := start(t)
	admin := r.enrolByPassword("admin", identity.RoleAdministrator)
	boot := &webtest.Boot{State: progress.Status{State: progress.Serving}, Err: progress.ErrNoPlatform}
	for _, p := range r.performers {
		p.Boot = boot
	}
	look := func(want ...string) {
		t.Helper()
		w := admin.do("GET", "/attestation/history", nil, nil)
		text := w.Body.String()
		if w.Code != 200 || strings.Contains(text, evil) {
			t.Fatalf("%d %s", w.Code, text)
		}
		for _, s := range want {
			if !strings.Contains(text, s) {
				t.Errorf("%q is not on the page", s)
			}
		}
		if want == nil && strings.Contains(text, "broker") {
			t.Error("it speaks of a broker, and there is none")
		}
	}
	look()
	boot.History = &progress.Releases{LogKey: "k", More: true, Records: []progress.ReleaseRecord{
		{Number: 18, Time: time.Now(), Result: "refused", Code: "E_BROKER_INSTANCE", Reason: evil, Instance: "i-0123456789abcdef0", Remote: "10.0.0.17:41522"},
		{Number: 17, Time: time.Now(), Result: "admitted", By: "ann"},
	}}
	look("refused", "E_BROKER_INSTANCE", "&lt;script&gt;", "i-0123456789abcdef0", "10.0.0.17:41522", "admitted", "ann", "older records")
	boot.Away = fault.Errorf(fault.BrokerUnreachable, "the broker https://broker.example:8444 does not say what it has released: nobody is there")
	look("The broker was asked, and does not tell", "E_BROKER_UNREACHABLE", "nobody is there")
}
