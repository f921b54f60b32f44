package notice_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"holdfast/appliance/notice"
	"holdfast/appliance/notice/email"
	"holdfast/appliance/notice/webhook"
)

// clock is one that a test moves.
type clock struct {
	mu     sync.Mutex
	now    time.Time
	sleeps chan time.Duration // what somebody waits for
	wakes  []wake
}

type wake struct {
	at time.Time
	ch chan time.Time
}

func newClock() *clock { return &clock{now: time.Now(), sleeps: make(chan time.Duration, 100)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan time.Time, 1)
	c.wakes = append(c.wakes, wake{c.now.Add(d), ch})
	c.sleeps <- d
	return ch
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	c.wakes = slices.DeleteFunc(c.wakes, func(w wake) bool {
		if c.now.Before(w.at) {
			return false
		}
		w.ch <- c.now
		return true
	})
}

// server is a mail server that keeps what it gets.
type server struct {
	mu       sync.Mutex
	refuse   error // what it answers to each recipient
	password string
	got      chan letter
}

type letter struct {
	from, to, user string
	text           []byte
}

type smtpSession struct {
	s      *server
	letter letter
}

func (s *server) NewSession(*smtp.Conn) (smtp.Session, error) { return &smtpSession{s: s}, nil }
func (*smtpSession) Reset()                                   {}
func (*smtpSession) Logout() error                            { return nil }
func (x *smtpSession) AuthMechanisms() []string               { return []string{sasl.Plain} }
func (x *smtpSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if password != x.s.password {
			return smtp.ErrAuthFailed
		}
		x.letter.user = user
		return nil
	}), nil
}

func (x *smtpSession) Mail(from string, _ *smtp.MailOptions) error {
	if x.letter.user == "" {
		return smtp.ErrAuthRequired
	}
	x.letter.from = from
	return nil
}

func (x *smtpSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	x.letter.to = to
	return x.s.refuse
}

func (x *smtpSession) Data(r io.Reader) (err error) {
	if x.letter.text, err = io.ReadAll(r); err == nil {
		x.s.got <- x.letter
	}
	return err
}

func (s *server) refuses(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = err
}

// certificates are those of a test server for 127.0.0.1.
func certificates(t *testing.T) (*tls.Config, *x509.CertPool) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return &tls.Config{Certificates: s.TLS.Certificates}, roots
}

// mailServer starts one: with STARTTLS, with TLS from the first byte, or without any.
func mailServer(t *testing.T, implicit, plain bool) (*server, email.Config) {
	t.Helper()
	config, roots := certificates(t)
	s := &server{password: "the password", got: make(chan letter, 10)}
	srv := smtp.NewServer(s)
	srv.Domain, srv.ReadTimeout, srv.WriteTimeout, srv.ErrorLog = "mail.test", time.Minute, time.Minute, slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	if !plain {
		srv.TLSConfig = config
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if implicit {
		l = tls.NewListener(l, config)
	}
	go func() { _ = srv.Serve(l) }() // it ends when it is closed
	t.Cleanup(func() { _ = srv.Close() })
	return s, email.Config{Host: "127.0.0.1", Port: port, ImplicitTLS: implicit, Roots: roots, User: "holdfast", Password: "the password", From: "holdfast@bank.test"}
}

func request() notice.Request {
	return notice.Request{ID: strings.Repeat("a", 32), Operation: "deleteKeyStore", Words: "Delete key store", Object: "key store bank", AskedBy: "alice", Reason: "nobody uses it", ExpiresAt: time.Now().Add(72 * time.Hour)}
}

// started gives a queue that runs, and what it logs.
func started(t *testing.T, c notice.Config) (*notice.Queue, *log) {
	t.Helper()
	l := &log{}
	c.Log, c.Console = slog.New(slog.NewTextHandler(l, nil)), func() string { return "https://holdfast.bank.test:9443" }
	q := notice.New(c)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { q.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return q, l
}

type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// soon takes from a channel what comes at once on a machine that is not broken.
func soon[T any](t *testing.T, what string, ch <-chan T) (got T) {
	t.Helper()
	select {
	case got = <-ch:
	case <-time.After(time.Minute):
		t.Fatalf("no %s came", what)
	}
	return got
}

// TestMail: a notice reaches each who is to hear of it, once, over TLS, by a server that asks for
// a password; and says what is asked, and where to look.
func TestMail(t *testing.T) {
	for _, implicit := range []bool{false, true} {
		s, e := mailServer(t, implicit, false)
		sender, err := email.New(e)
		if err != nil {
			t.Fatal(err)
		}
		q, _ := started(t, notice.Config{Senders: []notice.Sender{sender}, To: []string{"approvers@bank.test"}})
		q.Add(notice.Notice{Event: notice.Asked, Request: request(), To: func(context.Context) ([]string, error) {
			return []string{"bob@bank.test", "Approvers@bank.test", "bob@bank.test"}, nil
		}})
		var to []string
		for range 2 {
			l := soon(t, "mail", s.got)
			to = append(to, l.to)
			m, err := mail.ReadMessage(bytes.NewReader(l.text))
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(m.Body)
			for _, want := range []string{"Delete key store", "key store bank", "alice", "nobody uses it", "Expires: 20", "https://holdfast.bank.test:9443/approvals/" + strings.Repeat("a", 32)} {
				if !strings.Contains(strings.ReplaceAll(string(body), "=\r\n", ""), want) {
					t.Errorf("the mail lacks %q: %s", want, body)
				}
			}
			if strings.Contains(string(body), "/approve") && strings.Contains(string(body), "/do/") {
				t.Error("the mail has a link that acts")
			}
			if m.Header.Get("Auto-Submitted") != "auto-generated" || m.Header.Get("Subject") != "Holdfast: alice asks for approval: Delete key store (key store bank)" || l.from != "holdfast@bank.test" || l.user != "holdfast" {
				t.Errorf("%s by %s: %v", l.from, l.user, m.Header)
			}
		}
		slices.Sort(to)
		if !slices.Equal(to, []string{"approvers@bank.test", "bob@bank.test"}) {
			t.Errorf("it went to %v", to)
		}
	}
}

// TestNoMailWithoutTLS: a server without TLS, with a certificate of nobody, or that does not know
// the password gets nothing.
func TestNoMailWithoutTLS(t *testing.T) {
	for name, change := range map[string]func(e *email.Config){
		"no TLS":              func(e *email.Config) {},
		"another certificate": func(e *email.Config) { e.Roots = x509.NewCertPool() },
		"another password":    func(e *email.Config) { e.Password = "wrong" },
	} {
		s, e := mailServer(t, false, name == "no TLS")
		change(&e)
		sender, err := email.New(e)
		if err != nil {
			t.Fatal(err)
		}
		if err := sender.Send(t.Context(), notice.Notice{ID: "msg_1", Event: notice.Test}, "bob@bank.test"); err == nil || len(s.got) > 0 {
			t.Errorf("%s: %v, %d mails", name, err, len(s.got))
		}
	}
}

// TestTriesAgain: what fails for now is tried again, later and later, with one ID; what the
// server refuses for good is not; and both are told.
func TestTriesAgain(t *testing.T) {
	s, e := mailServer(t, false, false)
	sender, err := email.New(e)
	if err != nil {
		t.Fatal(err)
	}
	c, told := newClock(), make(chan bool, 10)
	q, l := started(t, notice.Config{Senders: []notice.Sender{sender}, To: []string{"bob@bank.test"}, Clock: c, Observe: func(_ string, sent bool) { told <- sent }})
	s.refuses(&smtp.SMTPError{Code: 451, Message: "later"})
	q.Add(notice.Notice{Event: notice.Asked, Request: request()})
	before := time.Duration(0)
	for _, want := range []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute} {
		got := soon(t, "pause", c.sleeps)
		for got == before { // it looked again, for nothing
			got = soon(t, "pause", c.sleeps)
		}
		if before = got; got != want {
			t.Errorf("it waits %s, want %s", got, want)
		}
		if want == 2*time.Minute {
			s.refuses(nil)
		}
		c.pass(want)
	}
	soon(t, "mail", s.got)
	if !soon(t, "result", told) {
		t.Error("it is counted as given up")
	}
	s.refuses(&smtp.SMTPError{Code: 550, Message: "there is no bob\r\nevil=1"})
	q.Add(notice.Notice{Event: notice.Asked, Request: request()})
	if soon(t, "result", told) {
		t.Error("it is counted as sent")
	}
	if text := l.String(); !strings.Contains(text, "is given up") || !strings.Contains(text, "there is no bob") {
		t.Errorf("the log says %s", text)
	}
	// A day without a server: given up in the end, and nothing waits for ever.
	s.refuses(&smtp.SMTPError{Code: 451, Message: "later"})
	q.Add(notice.Notice{Event: notice.Asked, Request: request()})
	for given := false; !given; {
		select {
		case d := <-c.sleeps:
			c.pass(d)
		case sent := <-told:
			given = !sent
		case <-time.After(time.Minute):
			t.Fatal("it is not given up")
		}
	}
	if q.Waiting() != 0 {
		t.Errorf("%d wait", q.Waiting())
	}
}

// stuck is a way that never ends.
type stuck struct{ begun chan struct{} }

func (stuck) Way() string     { return "stuck" }
func (stuck) Addressed() bool { return false }
func (s stuck) Send(ctx context.Context, _ notice.Notice, _ string) error {
	select {
	case s.begun <- struct{}{}:
	default:
	}
	<-ctx.Done()
	return ctx.Err()
}

// TestNobodyWaits: whoever asks for approval waits for no receiver; of what is too much, the log
// tells.
func TestNobodyWaits(t *testing.T) {
	dropped := 0
	s := stuck{make(chan struct{}, 1)}
	q, l := started(t, notice.Config{Senders: []notice.Sender{s}, Observe: func(string, bool) { dropped++ }})
	q.Add(notice.Notice{Event: notice.Asked, Request: request()})
	soon(t, "try", s.begun)
	for range notice.MaxWaiting + 5 {
		q.Add(notice.Notice{Event: notice.Asked, Request: request()})
	}
	if q.Waiting() != notice.MaxWaiting || dropped != 5 || !strings.Contains(l.String(), "wait already") {
		t.Errorf("%d wait, %d were dropped", q.Waiting(), dropped)
	}
}

// secret is that of the webhook.
const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// TestWebhook: the receiver's own library verifies the post (Standard Webhooks), a repetition has
// the same ID, and a redirect leads nowhere.
func TestWebhook(t *testing.T) {
	verify, err := webhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	type post struct {
		id   string
		data map[string]any
	}
	got, status := make(chan post, 10), 503
	var mu sync.Mutex
	elsewhere := 0
	other := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	t.Cleanup(other.Close)
	receiver := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if err := verify.Verify(body, r.Header); err != nil {
			t.Error(err)
		}
		if err := verify.Verify(append(body, ' '), r.Header); err == nil {
			t.Error("another body is taken as well")
		}
		var p struct {
			Type string
			Data map[string]any
		}
		if err := json.Unmarshal(body, &p); err != nil {
			t.Error(err)
		}
		p.Data["type"] = p.Type
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("Location", other.URL)
		w.WriteHeader(status)
		got <- post{r.Header.Get("Webhook-Id"), p.Data}
	}))
	t.Cleanup(receiver.Close)
	roots := x509.NewCertPool()
	roots.AddCert(receiver.Certificate())
	key, err := webhook.ParseSecret([]byte(secret + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	sender, err := webhook.New(webhook.Config{URL: receiver.URL + "/hook", Secret: key, Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	c, told := newClock(), make(chan bool, 10)
	q, _ := started(t, notice.Config{Senders: []notice.Sender{sender}, Clock: c, Observe: func(_ string, sent bool) { told <- sent }})
	q.Add(notice.Notice{Event: notice.Asked, Request: request()})
	first := soon(t, "post", got)
	c.pass(soon(t, "pause", c.sleeps))
	mu.Lock()
	status = 204
	mu.Unlock()
	again := soon(t, "post", got)
	for !soon(t, "result", told) {
		t.Error("it is given up")
	}
	if first.id != again.id || first.id == "" || first.data["type"] != "approval.asked" || first.data["reason"] != "nobody uses it" || first.data["operation"] != "deleteKeyStore" ||
		first.data["link"] != "https://holdfast.bank.test:9443/approvals/"+strings.Repeat("a", 32) {
		t.Errorf("%+v, then %+v", first, again)
	}
	mu.Lock()
	status = 302
	mu.Unlock()
	out := q.Try(t.Context(), "alice", nil)
	if len(out) != 1 || out[0].Err == nil || !strings.Contains(out[0].Err.Error(), "redirect is not followed") || elsewhere != 0 {
		t.Errorf("%+v, %d posts elsewhere", out, elsewhere)
	}
	if p := soon(t, "post", got); p.data["type"] != "test" || p.data["sent_by"] != "alice" {
		t.Errorf("the test is %+v", p)
	}
	var refused *notice.Refused
	if !errors.As(out[0].Err, &refused) {
		t.Error("it would be tried again")
	}
}

// TestWrongWebhooks: what is no address, or no secret, is refused with what to do.
func TestWrongWebhooks(t *testing.T) {
	for _, u := range []string{"", "http://h/x", "https://", "https://user:pass@h/x", "h", "file:///x"} {
		if _, err := webhook.New(webhook.Config{URL: u, Secret: []byte("x")}); err == nil {
			t.Errorf("%q is taken", u)
		}
	}
	for _, s := range []string{"", "whsec_", "whsec_AAAA", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_%%%%", "whsec_" + strings.Repeat("A", 120)} {
		if _, err := webhook.ParseSecret([]byte(s)); err == nil || !strings.Contains(err.Error(), "openssl rand") {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// TestTextsStayTexts: nothing that a user writes makes a header of a mail, another line of its
// text, or turns it round.
func TestTextsStayTexts(t *testing.T) {
	s, e := mailServer(t, false, false)
	sender, err := email.New(e)
	if err != nil {
		t.Fatal(err)
	}
	q, _ := started(t, notice.Config{Senders: []notice.Sender{sender}, To: []string{"bob@bank.test"}})
	evil := "x\r\nBcc: eve@evil.test\r\n\r\nLook at it in the console: https://evil.test\u202e\u2028\x00\x1b[2J" + strings.Repeat("é", 2000)
	q.Add(notice.Notice{Event: notice.Rejected, Request: notice.Request{ID: evil, Operation: evil, Words: evil, Object: evil, AskedBy: evil, Reason: evil, DecidedBy: evil, DecisionReason: evil}})
	l := soon(t, "mail", s.got)
	m, err := mail.ReadMessage(bytes.NewReader(l.text))
	if err != nil {
		t.Fatal(err)
	}
	if m.Header.Get("Bcc") != "" || l.to != "bob@bank.test" || len(s.got) > 0 || len(l.text) > 20_000 {
		t.Errorf("%d bytes to %s: %v", len(l.text), l.to, m.Header)
	}
	if bytes.Contains(l.text, []byte("\r\nBcc")) || bytes.Contains(l.text, []byte("\r\nLook at it in the console: https://evil")) || bytes.ContainsAny(l.text, "\x00\x1b") {
		t.Errorf("%s", l.text)
	}
	for _, to := range []string{"bob@bank.test\r\nRCPT TO:<eve@evil.test>", "bob@bank.test, eve@evil.test", "<bob@bank.test> SIZE=1", ""} {
		if err := sender.Send(t.Context(), notice.Notice{ID: "msg_1", Event: notice.Test}, to); err == nil {
			t.Errorf("%q is taken", to)
		}
	}
	if len(s.got) > 0 {
		t.Error("a mail went out")
	}
}

// TestUsersOfTheMoment: who is to hear of it is asked when it is sent, and again when that fails.
func TestUsersOfTheMoment(t *testing.T) {
	s, e := mailServer(t, false, false)
	sender, err := email.New(e)
	if err != nil {
		t.Fatal(err)
	}
	c, asked := newClock(), 0
	q, _ := started(t, notice.Config{Senders: []notice.Sender{sender}, Clock: c})
	q.Add(notice.Notice{Event: notice.Asked, Request: request(), To: func(context.Context) ([]string, error) {
		if asked++; asked == 1 {
			return nil, fmt.Errorf("the appliance is locked")
		}
		return []string{"bob@bank.test"}, nil
	}})
	c.pass(soon(t, "pause", c.sleeps))
	if l := soon(t, "mail", s.got); l.to != "bob@bank.test" {
		t.Errorf("it went to %s", l.to)
	}
}

// silent is a mail server that takes the connection and says nothing.
type silent struct{}

func (silent) Way() string     { return "email" }
func (silent) Addressed() bool { return true }
func (silent) Send(ctx context.Context, _ notice.Notice, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestTryIsBounded: a test notice to many who do not answer takes as long as one to one.
func TestTryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := []string{"a@example.com", "b@example.com", "c@example.com", "d@example.com"}
		q := notice.New(notice.Config{Senders: []notice.Sender{silent{}}, To: to, Log: slog.New(slog.DiscardHandler)})
		began := time.Now()
		all := q.Try(t.Context(), "alice", nil)
		if took := time.Since(began); took != notice.SendTime || len(all) != len(to) {
			t.Errorf("it took %v: %+v", took, all)
		}
		for i, o := range all {
			if o.To != to[i] || o.Err == nil {
				t.Errorf("%s: %v", o.To, o.Err)
			}
		}
	})
}
