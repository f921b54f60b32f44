package forget_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"holdfast/web/forget"
)

// TestUnreadBody: who is refused before the body was read has the whole answer, and no broken
// connection.
func TestUnreadBody(t *testing.T) {
	const refusal = "you may not do this"
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		forget.Answer(w, r, func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, refusal)
		})
	}))
	defer s.Close()
	for _, size := range []int{10, 1000, 20_000, 200_000} {
		for range 20 {
			res, err := s.Client().Post(s.URL, "application/json", io.MultiReader(strings.NewReader("{"), strings.NewReader(strings.Repeat(" ", size))))
			if err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			text, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || string(text) != refusal || res.StatusCode != http.StatusForbidden {
				t.Fatalf("%d bytes: %d %q %v", size, res.StatusCode, text, err)
			}
		}
	}
}
