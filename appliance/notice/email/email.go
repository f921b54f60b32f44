// Package email sends notices by a mail server, over TLS alone.
package email

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/wneessen/go-mail"

	"holdfast/appliance/notice"
)

// Config says by which mail server notices go out. Host and From are needed.
type Config struct {
	Host string
	// Port is 587, or 465 with TLS from the first byte, if 0.
	Port int
	// ImplicitTLS has TLS begin with the connection; otherwise by STARTTLS. There is no way
	// without TLS: a notice names keys and people, and the password must not be seen.
	ImplicitTLS bool
	// Roots are the authorities that sign the server's certificate; the system's if nil.
	Roots *x509.CertPool
	// User and Password are for a server that wants them.
	User, Password string
	From           string
}

// The ports of mail submission (RFC 8314 section 3.3).
const (
	PortSTARTTLS = 587
	PortTLS      = 465
)

// New makes a sender of e-mail.
func New(e Config) (notice.Sender, error) {
	if e.Port == 0 {
		e.Port = PortSTARTTLS
		if e.ImplicitTLS {
			e.Port = PortTLS
		}
	}
	s := sender{e}
	_, err := s.client()
	return s, err
}

type sender struct{ e Config }

func (sender) Way() string     { return "email" }
func (sender) Addressed() bool { return true }

func (s sender) client() (*mail.Client, error) {
	o := []mail.Option{mail.WithPort(s.e.Port), mail.WithTimeout(notice.SendTime), mail.WithTLSConfig(&tls.Config{ServerName: s.e.Host, MinVersion: tls.VersionTLS12, RootCAs: s.e.Roots})}
	if s.e.ImplicitTLS {
		o = append(o, mail.WithSSL())
	} else {
		o = append(o, mail.WithTLSPolicy(mail.TLSMandatory))
	}
	if s.e.User != "" {
		o = append(o, mail.WithSMTPAuth(mail.SMTPAuthAutoDiscover), mail.WithUsername(s.e.User), mail.WithPassword(s.e.Password))
	}
	return mail.NewClient(s.e.Host, o...)
}

// Send implements [notice.Sender]. Header fields have one line each: the notice's texts are cleaned, and
// the library encodes what is not ASCII.
func (s sender) Send(ctx context.Context, n notice.Notice, to string) error {
	m := mail.NewMsg(mail.WithNoDefaultUserAgent())
	if err := errors.Join(m.From(s.e.From), m.To(to)); err != nil {
		return &notice.Refused{Err: fmt.Errorf("the address cannot be used: %w", err)}
	}
	_, domain, _ := strings.Cut(s.e.From, "@")
	m.SetMessageIDWithValue(n.ID + "@" + strings.TrimSuffix(domain, ">"))
	m.SetDateWithValue(n.At)
	m.Subject(n.Title())
	m.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: nobody's absence answers it
	m.SetBodyString(mail.TypeTextPlain, n.Text())
	c, err := s.client()
	if err == nil {
		err = c.DialAndSendWithContext(ctx, m)
	}
	var told *mail.SendError
	if errors.As(err, &told) && !told.IsTemp() && told.ErrorCode() >= 500 {
		return &notice.Refused{Err: fmt.Errorf("the mail server %s refuses it: %w", s.e.Host, err)}
	}
	if err != nil {
		return fmt.Errorf("the mail server %s: %w", s.e.Host, err)
	}
	return nil
}
