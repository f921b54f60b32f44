package xks

import (
	"io"
	"net/http"
)

// probeAnswer answers a load balancer; a note says what is wrong.
func probeAnswer(w http.ResponseWriter, r *http.Request, ok bool, note string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	word := "ok"
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
		word = "unavailable"
	}
	if note != "" {
		word += ": " + note
	}
	_, _ = io.WriteString(w, word+"\n")
}
