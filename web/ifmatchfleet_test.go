package web_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/changelogtest"
	"holdfast/web"
	"holdfast/web/operation"
	"holdfast/web/webtest"
	"holdfast/xks/xkstest"
)

// overtakenLog has something done just before the next change is appended.
type overtakenLog struct {
	appliance.ChangeLog
	first func()
}

func (l *overtakenLog) Append(ctx context.Context, number uint64, body []byte) error {
	if f := l.first; f != nil {
		l.first = nil
		f()
	}
	return l.ChangeLog.Append(ctx, number, body)
}

// ifMatched are the routes of the test below.
var ifMatched = []string{"disableKey", "enableKey", "scheduleKeyDeletion", "setQuota", "setRole"}

// TestIfMatchAcrossNodes: of two nodes that are asked with the same revision at once, one does
// it, and the other refuses it: the log's order decides.
func TestIfMatchAcrossNodes(t *testing.T) {
	tested := map[string]bool{}
	for _, route := range operation.Table() {
		if !slices.Contains(ifMatched, route.ID) {
			continue
		}
		t.Run(route.ID, func(t *testing.T) {
			log := changelogtest.NewMemory(nil)
			overtaken := &overtakenLog{ChangeLog: log.Peer()}
			a := newBankOn(t, xkstest.Options{Appliance: appliance.Options{ChangeLog: overtaken}})
			other := appliancetest.Start(t, appliancetest.Options{Token: appliancetest.PKCS11(a.bed.Config), Appliance: appliance.Options{ChangeLog: log.Peer()}})
			b := &caller{t, web.NewAPI(optionsOn(t, other.Store, other.Appliance, &webtest.Boot{}, &webtest.Audit{}, slog.New(slog.NewTextHandler(other.Log, nil)))), nil}
			path := a.names.Replace(route.Path)
			seen := a.revisions(path)
			if route.ID == "enableKey" {
				a.call(&root, "POST", strings.TrimSuffix(path, "/enable")+"/disable", "")
				seen = a.revisions(path)
			}
			if err := other.Store.CatchUp(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, revision := range seen {
				match := func(r *http.Request) { r.Header.Set("If-Match", revision) }
				done := 0
				overtaken.first = func() { done = b.call(&root, route.Method, path, samples[route.ID], match).Code }
				w := a.call(&root, route.Method, path, samples[route.ID], match)
				overtaken.first = nil
				if done < 200 || done > 299 {
					continue // it is not what this revision is of, or nothing was changed
				}
				tested[route.ID] = true
				if w.Code != http.StatusPreconditionFailed && !(w.Code == http.StatusConflict && strings.Contains(samples[route.ID], "material")) {
					t.Errorf("both did it, or %d %s", w.Code, w.Body)
				}
				return
			}
		})
	}
	for _, id := range ifMatched {
		if !tested[id] {
			t.Errorf("%s was not tested", id)
		}
	}
}

// revisions gives those of what there is on the way to a path, and of what lists have there.
func (b *bank) revisions(path string) (all []string) {
	for p := path; p != ""; p = p[:strings.LastIndex(p, "/")] {
		w := b.call(&root, "GET", p, "")
		var tree any
		if w.Code != http.StatusOK || json.Unmarshal(w.Body.Bytes(), &tree) != nil {
			continue
		}
		all = append(all, operation.Revision(tree))
		if list, is := tree.([]any); is {
			for _, v := range list {
				all = append(all, operation.Revision(v))
			}
		}
	}
	return all
}
