package web_test

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"holdfast/web/webtest"
)

// TestStrangersKeepNoAuditorOut: addresses that ask for evidence without end are told when to
// ask again, and an auditor at another address gets each that they ask for. The connections
// are real, from many addresses.
func TestStrangersKeepNoAuditorOut(t *testing.T) {
	server := httptest.NewServer(public(&webtest.Boot{}, slog.New(slog.DiscardHandler)))
	defer server.Close()
	ask := func(from string, n int) (answered, throttled int) {
		client := &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext}}
		defer client.CloseIdleConnections()
		for range n {
			res, err := client.Get(server.URL + "/attestation?nonce=" + nonce)
			if err != nil {
				t.Error(err)
				return answered, throttled
			}
			_ = res.Body.Close()
			after, _ := strconv.Atoi(res.Header.Get("Retry-After"))
			switch {
			case res.StatusCode == http.StatusOK:
				answered++
			case res.StatusCode == http.StatusTooManyRequests && after >= 1:
				throttled++
			default:
				t.Errorf("%s: %s, Retry-After %q", from, res.Status, res.Header.Get("Retry-After"))
			}
		}
		return answered, throttled
	}
	var strangers sync.WaitGroup
	for i := range 20 {
		strangers.Go(func() {
			from := "127.0.1." + strconv.Itoa(i+1)
			if answered, throttled := ask(from, 60); answered == 0 || answered+throttled != 60 {
				t.Errorf("%s: %d answered, %d throttled", from, answered, throttled)
			}
		})
	}
	if answered, _ := ask("127.0.0.9", 15); answered != 15 {
		t.Errorf("the auditor got %d of 15", answered)
	}
	strangers.Wait()
	if !strings.HasPrefix(server.URL, "http://127.0.0.1:") {
		t.Errorf("the server is at %s", server.URL)
	}
}
