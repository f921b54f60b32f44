package forget_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"holdfast/web/forget"
)

// handler reads the request and answers with it, between two headers and a status.
var handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Before", "set")
	forget.Answer(w, r, func(w http.ResponseWriter) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("X-Within", "set")
		w.WriteHeader(http.StatusTeapot)
		w.WriteHeader(http.StatusOK) // which has no effect
		_, _ = io.WriteString(w, "read "+string(body))
	})
})

// servers are the ways a request comes.
var servers = map[string]func(t *testing.T) *httptest.Server{
	"plain": func(*testing.T) *httptest.Server { return httptest.NewServer(handler) },
	"TLS 1.3": func(*testing.T) *httptest.Server {
		return httptest.NewTLSServer(handler)
	},
	"TLS 1.2": func(*testing.T) *httptest.Server {
		s := httptest.NewUnstartedServer(handler)
		s.TLS = &tls.Config{MaxVersion: tls.VersionTLS12}
		s.StartTLS()
		return s
	},
	"HTTP/2": func(*testing.T) *httptest.Server {
		s := httptest.NewUnstartedServer(handler)
		s.EnableHTTP2 = true
		s.StartTLS()
		return s
	},
	"Unix socket": func(t *testing.T) *httptest.Server {
		l, err := net.Listen("unix", t.TempDir()+"/s")
		if err != nil {
			t.Fatal(err)
		}
		s := &httptest.Server{Listener: l, Config: &http.Server{Handler: handler}}
		s.Start()
		return s
	},
}

// TestAnswer: each answer comes whole, short or long, and the connection ends with it.
func TestAnswer(t *testing.T) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			defer s.Close()
			client, url := s.Client(), s.URL
			if l := s.Listener.Addr(); l.Network() == "unix" {
				client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, "unix", l.String())
				}}}
				url = "http://holdfast"
			}
			for _, body := range []string{"", "x", strings.Repeat("long ", 100_000)} {
				res, err := client.Post(url, "text/plain", strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err != nil || res.StatusCode != http.StatusTeapot || string(got) != "read "+body {
					t.Errorf("%d bytes: %d, %d bytes, %v", len(body), res.StatusCode, len(got), err)
				}
				for _, h := range []string{"X-Before", "X-Within", "Date", "Content-Type"} {
					if res.Header.Get(h) == "" {
						t.Errorf("the header %s is lost: %v", h, res.Header)
					}
				}
				if ends := res.Close; ends != (res.ProtoMajor == 1) {
					t.Errorf("%s: it ends the connection: %v", res.Proto, ends)
				}
			}
		})
	}
}
