package xks

import (
	"io"
	"net/http"
	"strconv"
)

// probeAnswer answers a load balancer; a note says what is wrong.
func probeAnswer(w http.ResponseWriter, r *http.Request, ok bool, note string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	status, word := http.StatusOK, "ok"
	if !ok {
		status, word = http.StatusServiceUnavailable, "unavailable"
	}
	if note != "" {
		word += ": " + note
	}
	word += "\n"
	w.Header().Set("Content-Length", strconv.Itoa(len(word)))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, word)
}
