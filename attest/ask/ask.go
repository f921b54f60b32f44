// Package ask gets evidence from a running appliance over HTTPS, as a stranger does: it
// needs no account there. Use it before evidence is appraised online
// ([holdfast/attest.Verify]); what is asked for here is trusted in nothing.
//
// It guarantees that the TLS key which it gives is that of the connection on which the
// evidence came, whose holder has proved that it has the private key (TLS 1.3). No
// authority need vouch for the certificate: the evidence has to name its key.
package ask

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"holdfast/appliance/fault"
	"holdfast/attest"
)

// The bounds of what is asked.
const (
	// TryTime bounds one request with its answer.
	TryTime = 30 * time.Second
	// Patience is how long a caller waits for an appliance that asks to come again later.
	Patience = 60 * time.Second

	nonceSize  = 32
	maxBody    = 2 * attest.MaxEvidence // of evidence in Base64, with a little beside it
	maxHeaders = 64 << 10
	maxProblem = 64 << 10
	maxWords   = 200 // characters of a text that the other side chose
)

// Clock tells the time, and wakes.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

// WallClock is the machine's.
type WallClock struct{}

// Now implements [Clock].
func (WallClock) Now() time.Time { return time.Now() }

// After implements [Clock].
func (WallClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Asker asks appliances. The zero value is ready; its methods may be called concurrently.
type Asker struct {
	// Roots are the authorities that may vouch for a certificate; the system's if nil.
	Roots *x509.CertPool
	// Waits, if given, is told before each wait how long it is and what for.
	Waits func(d time.Duration, why string)
	// Clock is the machine's if nil.
	Clock Clock
}

// Answer is what an appliance gave.
type Answer struct {
	// Address is what was asked, "https://HOST:PORT"; At is when the answer was complete.
	Address string
	At      time.Time
	// Nonce is the one that was asked with.
	Nonce []byte
	// Text is the evidence file as it came, and Evidence what is in it. Body is the whole
	// answer: of [Asker.Ask] it is Text.
	Text     []byte
	Evidence *attest.Evidence
	Body     []byte
	// Certificate is the one that the connection was made with.
	Certificate *x509.Certificate
	// Untrusted says why no authority vouches for the certificate under the address's
	// host; nil if one does.
	Untrusted error
}

// TLSKey is the key of the connection (DER SubjectPublicKeyInfo).
func (a *Answer) TLSKey() []byte { return a.Certificate.RawSubjectPublicKeyInfo }

// ParseAddress reads the address of an appliance: "https://HOST" or "https://HOST:PORT".
func ParseAddress(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("%.200q is not the address of an appliance: give that of its console, such as https://holdfast.example.com:9443", address)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

// Ask asks the appliance at the address, "https://HOST:PORT", for evidence with a fresh
// nonce. If it asks to come again later (Retry-After) it is asked again, for at most
// [Patience]. Errors: a [*fault.Fault] of [fault.Unreachable] if no evidence came; or what
// is wrong with the address.
func (a *Asker) Ask(ctx context.Context, address string) (*Answer, error) {
	answer, err := a.patiently(ctx, address, "/attestation", func(body []byte) ([]byte, error) { return body, nil })
	if f, ok := errors.AsType[*refused](err); ok {
		return nil, fault.Wrapf(fault.Unreachable, f, "%s", address)
	}
	return answer, err
}

// AskAt is [Asker.Ask] at another path, whose answer has evidence in it: find gives the
// evidence file. Errors are also those of the appliance, each with its code.
func (a *Asker) AskAt(ctx context.Context, address, path string, find func(body []byte) ([]byte, error)) (*Answer, error) {
	answer, err := a.patiently(ctx, address, path, find)
	return answer, ofAppliance(err)
}

// ofAppliance gives a refusal with the appliance's own code.
func ofAppliance(err error) error {
	f, ok := errors.AsType[*refused](err)
	switch {
	case !ok:
		return err
	case f.code == "":
		return fault.Errorf(fault.Unreachable, "%s", f)
	}
	return fault.Decoded(f.code, "the appliance refuses: "+f.detail)
}

func (a *Asker) patiently(ctx context.Context, address, path string, find func([]byte) ([]byte, error)) (*Answer, error) {
	u, err := ParseAddress(address)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, nonceSize)
	_, _ = rand.Read(nonce) // never fails (crypto/rand)
	where := *u
	where.Path, where.RawQuery = path, url.Values{"nonce": {hex.EncodeToString(nonce)}}.Encode()
	answer := &Answer{Address: u.String(), Nonce: nonce}
	err = a.again(ctx, u, func() error { return a.once(ctx, u, where.String(), find, answer) })
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// again asks until the appliance does not ask to come again later.
func (a *Asker) again(ctx context.Context, u *url.URL, once func() error) error {
	clock := a.clock()
	for until := clock.Now().Add(Patience); ; {
		err := once()
		later, ok := errors.AsType[*busy](err)
		_, isRefusal := errors.AsType[*refused](err)
		switch {
		case err == nil || isRefusal:
			return err
		case !ok:
			return fault.Wrapf(fault.Unreachable, err, "%s", u)
		case clock.Now().Add(later.after).After(until):
			return fault.Errorf(fault.Unreachable, "%s: it answers %s, and asks to come again in %s, which is later than this waits (%s): ask again then", u, later.status, later.after, Patience)
		}
		if a.Waits != nil {
			a.Waits(later.after, later.status)
		}
		select {
		case <-clock.After(later.after):
		case <-ctx.Done():
			return fault.Wrapf(fault.Unreachable, ctx.Err(), "%s: it answers %s", u, later.status)
		}
	}
}

// Tell posts JSON to the appliance that gave the answer, which is the one whose connection
// has the same key. Errors: those of the appliance, each with its code; [*fault.Fault] of
// [fault.Unreachable].
func (a *Asker) Tell(ctx context.Context, to *Answer, path string, body []byte) error {
	u, err := ParseAddress(to.Address)
	if err != nil {
		return err
	}
	where := *u
	where.Path = path
	err = a.again(ctx, u, func() error {
		ctx, cancel := context.WithTimeout(ctx, TryTime)
		defer cancel()
		q, err := http.NewRequestWithContext(ctx, http.MethodPost, where.String(), bytes.NewReader(body))
		if err != nil {
			return err
		}
		q.Header.Set("Content-Type", "application/json")
		res, err := a.do(q, func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || !bytes.Equal(s.PeerCertificates[0].RawSubjectPublicKeyInfo, to.TLSKey()) {
				return errors.New("another server answers than the one that gave the evidence; nothing was sent")
			}
			return nil
		})
		if err != nil {
			return err
		}
		defer res.Body.Close()
		return a.refusal(res)
	})
	return ofAppliance(err)
}

func (a *Asker) clock() Clock {
	if a.Clock == nil {
		return WallClock{}
	}
	return a.Clock
}

// busy is the error of an appliance that asks to come again.
type busy struct {
	status string
	after  time.Duration
}

func (b *busy) Error() string { return "it answers " + b.status }

// refused is the error of an appliance that says why it does not do what is asked.
type refused struct{ status, code, detail string }

func (r *refused) Error() string {
	return fmt.Sprintf("it answers %s (%s): %s", r.status, r.code, r.detail)
}

// do makes a request on a connection of its own; verify may refuse the connection.
func (a *Asker) do(q *http.Request, verify func(tls.ConnectionState) error) (*http.Response, error) {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: TryTime / 2, MaxResponseHeaderBytes: maxHeaders,
		// What is compressed could be larger than it looks.
		DisableKeepAlives: true, DisableCompression: true,
		// The evidence has to name the key, which an authority cannot say: see chain.
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, VerifyConnection: verify}, //nolint:gosec // see above
		Protocols:       new(http.Protocols),
	}
	transport.Protocols.SetHTTP1(true)
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	q.Header.Set("User-Agent", "holdfast")
	res, err := client.Do(q)
	if about, ok := errors.AsType[*url.Error](err); ok {
		err = about.Err
	}
	if err != nil {
		return nil, fmt.Errorf("%w; check the address, and that an appliance runs there", err)
	}
	return res, nil
}

// once asks once, and completes the answer.
func (a *Asker) once(ctx context.Context, u *url.URL, where string, find func([]byte) ([]byte, error), answer *Answer) error {
	ctx, cancel := context.WithTimeout(ctx, TryTime)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return err
	}
	res, err := a.do(q, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := a.refusal(res); err != nil {
		return err
	}
	if answer.Body, err = io.ReadAll(io.LimitReader(res.Body, maxBody+1)); err != nil {
		return fmt.Errorf("the answer does not come to its end: %w", err)
	}
	if answer.Text, err = find(answer.Body); err == nil {
		answer.Evidence, err = attest.Parse(answer.Text) // refuses what is too long
	}
	if err != nil {
		return fmt.Errorf("it answers with something else than evidence; check that the address is that of an appliance's console: %w", err)
	}
	answer.At, answer.Certificate = a.clock().Now(), res.TLS.PeerCertificates[0]
	answer.Untrusted = a.chain(u.Hostname(), res.TLS.PeerCertificates)
	return nil
}

// chain says why no authority vouches for the certificates under the host; nil if one does.
func (a *Asker) chain(host string, certificates []*x509.Certificate) error {
	others := x509.NewCertPool()
	for _, c := range certificates[1:] {
		others.AddCert(c)
	}
	_, err := certificates[0].Verify(x509.VerifyOptions{DNSName: host, Roots: a.Roots, Intermediates: others, CurrentTime: a.clock().Now()})
	return err
}

// refusal says why an answer has no evidence; nil if it may have some.
func (a *Asker) refusal(res *http.Response) error {
	status := printable(res.Status)
	switch code := res.StatusCode; {
	case code == http.StatusOK || code == http.StatusNoContent:
		return nil
	case code >= 300 && code < 400:
		return fmt.Errorf("it answers %s to %q, which is not followed: give the address of the appliance itself", status, printable(res.Header.Get("Location")))
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable:
		if after, ok := retryAfter(res.Header.Get("Retry-After"), a.clock().Now()); ok {
			return &busy{status, after}
		}
	}
	var problem struct {
		Code   string `json:"code"`
		Detail string `json:"detail"`
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxProblem))
	if err == nil && json.Unmarshal(text, &problem) == nil && problem.Detail != "" {
		return &refused{status, printable(problem.Code), printable(problem.Detail)}
	}
	return fmt.Errorf("it answers %s; check that the address is that of an appliance's console", status)
}

// retryAfter reads a Retry-After: seconds, or a time (RFC 9110 section 10.2.3). It is at
// least a second, so that nobody is asked without pause.
func retryAfter(text string, now time.Time) (time.Duration, bool) {
	after := time.Duration(0)
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		after = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		after = at.Sub(now).Round(time.Second)
	} else {
		return 0, false
	}
	return max(after, time.Second), true
}

// printable gives a text of the other side in one line, without what a terminal obeys, and
// not long.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	if runes := []rune(text); len(runes) > maxWords {
		text = string(runes[:maxWords]) + "…"
	}
	return strings.TrimSpace(text)
}
