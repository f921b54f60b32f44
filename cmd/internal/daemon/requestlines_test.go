package daemon_test

import (
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/config"
	"holdfast/xks/xkstest"
)

// TestRequestLines: log.requests says whether requests that were performed have a line.
func TestRequestLines(t *testing.T) {
	for _, c := range []struct {
		requests string
		line     bool
	}{{"", false}, {config.RequestsFailed, false}, {config.RequestsAll, true}} {
		s := newSite(t)
		s.cfg.Log.Requests = c.requests
		r := s.start()
		k := r.newKeyStore()
		r.newKey("k", appliance.CustodyCached, "")
		before := len(s.log.String())
		k.OK("/keys/k/encrypt", xkstest.EncryptBody("x"))
		k.Fails("/keys/nobody/encrypt", xkstest.EncryptBody("x"), 404, "KeyNotFoundException")
		lines := s.log.String()[before:]
		if has := strings.Contains(lines, "msg=Encrypt status=200"); has != c.line {
			t.Errorf("log.requests %q: a request that was performed has a line: %v", c.requests, has)
		}
		if !strings.Contains(lines, "msg=Encrypt status=404") {
			t.Errorf("log.requests %q: a request that was refused has no line", c.requests)
		}
		r.stop()
	}
}
