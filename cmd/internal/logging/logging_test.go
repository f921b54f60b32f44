package logging_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"holdfast/appliance/config"
	"holdfast/cmd/internal/logging"
)

// buffer is a reader that takes everything.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A request never waits for whoever reads the log: the pipe has no reader at all.
func TestNobodyWaits(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			r, w := io.Pipe()
			log := logging.New(config.Log{Level: "info", Format: format}, w, w)
			log.Error("the first")
			const lines = 100000
			for i := range lines {
				log.Requests.Info("Encrypt", "request", i, "padding", strings.Repeat("x", 64))
			}
			for range 10 {
				log.Error("an urgent line has room of its own")
			}
			dropped := log.Dropped()
			if dropped == 0 || dropped >= lines {
				t.Fatalf("%d of %d lines were dropped", dropped, lines)
			}
			var got bytes.Buffer
			read := make(chan error)
			go func() {
				_, err := io.Copy(&got, r)
				read <- err
			}()
			log.Close()
			_ = w.Close()
			if err := <-read; err != nil {
				t.Fatal(err)
			}
			text := got.String()
			if n := strings.Count(text, "urgent line"); n != 10 {
				t.Errorf("%d urgent lines of 10 came through", n)
			}
			if n := uint64(strings.Count(text, "Encrypt")); n+dropped != lines {
				t.Errorf("%d lines came through, %d were dropped, of %d", n, dropped, lines)
			}
			if !strings.Contains(text, fmt.Sprint(dropped)) || !strings.Contains(text, "were dropped") {
				t.Error("nobody is told of the dropped lines")
			}
		})
	}
}

// A reader that never reads does not keep the process from ending.
func TestCloseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		log := logging.New(config.Log{}, w, w)
		log.Error("nobody reads this")
		begin := time.Now()
		log.Close()
		if took := time.Since(begin); took != 2*time.Second {
			t.Errorf("it took %s", took)
		}
		_ = r.Close()
		synctest.Wait()
	})
}

func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rest, requests buffer
		log := logging.New(config.Log{Level: "info"}, &rest, &requests)
		defer log.Close()
		log.Requests.Info("Decrypt")
		log.Info("held back")
		synctest.Wait()
		if rest.String() != "" || requests.String() != "" {
			t.Error("a line that is not urgent was written at once")
		}
		log.Warn("at once")
		synctest.Wait()
		if got := rest.String(); !strings.Contains(got, "held back") || !strings.Contains(got, "at once") {
			t.Errorf("after a warning the log has %q", got)
		}
		time.Sleep(100 * time.Millisecond) // of the test's own clock
		synctest.Wait()
		if got := requests.String(); !strings.Contains(got, "Decrypt") {
			t.Errorf("after a tenth of a second the log of requests has %q", got)
		}
		if strings.Contains(rest.String(), "Decrypt") {
			t.Error("a request's line is in the other log")
		}
		log.Debug("not asked for")
		log.With("key", "k").WithGroup("g").Error("with attributes", "a", 1)
		synctest.Wait()
		if got := rest.String(); strings.Contains(got, "not asked for") || !strings.Contains(got, `key=k g.a=1`) {
			t.Errorf("the log has %q", got)
		}
	})
}

// TestNothingReachesTheTerminal: no line of a log does something to the terminal on
// which it is read, whatever the format and wherever the text of another stands.
func TestNothingReachesTheTerminal(t *testing.T) {
	evil := "\x1b[2J\r\n\x7f\u009b31m\u202e\u2066\u200b\u2028\xff\U000e0041 ä"
	for _, format := range []string{"text", "json"} {
		var out buffer
		log := logging.New(config.Log{Level: "info", Format: format}, &out, &out)
		log.With("with", evil).WithGroup(evil).Error(evil, "value", evil, evil, 1, "error", errors.New(evil))
		log.Close()
		line, rest, _ := strings.Cut(out.String(), "\n")
		if at := strings.IndexFunc(line, func(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) }); at >= 0 || rest != "" || !strings.Contains(line, "ä") {
			t.Errorf("%s: %q", format, out.String())
		}
		if format == "json" && !json.Valid([]byte(line)) {
			t.Errorf("%q is not JSON", line)
		}
	}
}
