package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"unicode"

	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/appliance/fault"
)

// Codes of PostgreSQL (Appendix A of its manual).
const (
	uniqueViolation     = "23505"
	foreignKeyViolation = "23503"
	noDatabase          = "3D000"
	noPermission        = "42501"
	readOnly            = "25006"
	undefinedTable      = "42P01"
)

// failed makes the fault of an error of the connection, of the server, or of ctx.
func (c *connector) failed(ctx context.Context, err error) error {
	var f *fault.Fault
	if errors.As(err, &f) {
		return f
	}
	if ctx.Err() != nil {
		return c.fault(fault.DatabaseAway, errors.Join(ctx.Err(), err), "did not answer in time: check that it runs and can be reached")
	}
	if refused := new(pgconn.PgError); errors.As(err, &refused) {
		return c.refused(err, refused)
	}
	var certificate *tls.CertificateVerificationError
	var name x509.HostnameError
	var alert tls.AlertError
	switch {
	case errors.As(err, &name):
		return c.fault(fault.DatabaseRefused, err, "has a certificate for another name: write that name into state.database, or give the server a certificate for this one")
	case errors.As(err, &certificate):
		return c.fault(fault.DatabaseRefused, err, "has a certificate that is not valid or that no trusted authority signed: name the authority of the server's certificate in state.database_ca")
	case errors.As(err, &alert):
		return c.fault(fault.DatabaseRefused, err, "refused the TLS connection: check state.database_certificate and state.database_key, and what the server's log says")
	case strings.Contains(err.Error(), "server refused TLS connection"): // pgx has no value for it
		return c.fault(fault.DatabaseRefused, err, "has no TLS: set ssl = on there, with a certificate")
	}
	return c.fault(fault.DatabaseAway, err, "could not be reached, or the connection was lost: check that it runs and can be reached")
}

// refused is about what the server says.
func (c *connector) refused(err error, e *pgconn.PgError) error {
	said := " (the server says: " + c.clean(e.Message) + ")"
	class := e.Code
	if len(class) > 2 {
		class = class[:2]
	}
	switch {
	case class == "28":
		return c.fault(fault.DatabaseRefused, err, "refused the login"+said+": check the user in state.database, and state.database_password_file or state.database_certificate")
	case e.Code == noDatabase:
		return c.fault(fault.DatabaseRefused, err, "is not there"+said+": create it, or correct its name in state.database")
	case e.Code == noPermission:
		return c.fault(fault.DatabaseRefused, err, "refused a permission"+said+": make the user of state.database the owner of the database and of its tables")
	case e.Code == readOnly:
		return c.fault(fault.DatabaseAway, err, "takes no changes: it is a standby that was not promoted, or is read-only")
	case e.Code == "42601": // syntax
		return c.fault(fault.Internal, err, "did not understand a statement"+said)
	case class == "P0": // PL/pgSQL; Holdfast has nothing of it
		return c.fault(fault.FleetLog, err, "has a trigger or a rule that Holdfast did not make, and that fails"+said)
	case class == "42", class == "22", class == "23", class == "21", class == "0A", e.Code == "55000", e.Code == "XX001", e.Code == "XX002", class == "3F":
		return c.fault(fault.FleetLog, err, "has tables that Holdfast did not make, or lacks one"+said)
	}
	return c.fault(fault.DatabaseAway, err, "could not do it now"+said)
}

// damaged is about what was read.
func (c *connector) damaged(what string) error {
	return c.fault(fault.FleetLog, nil, "has what Holdfast did not write: "+what)
}

func (c *connector) fault(code fault.Code, err error, what string) error {
	f := &fault.Fault{Code: code, Message: "the database " + c.address.String() + " " + what}
	if err != nil {
		f.Err = &cause{c.clean(err.Error()), err}
	}
	return f
}

// cause is an error whose text is fit for the log.
type cause struct {
	text string
	err  error
}

func (c *cause) Error() string { return c.text }
func (c *cause) Unwrap() error { return c.err }

// maxSaid bounds what is shown of a text from outside, in bytes.
const maxSaid = 400

// clean makes one printable line of what the network or the server said, without the
// password, which a server could repeat.
func (c *connector) clean(text string) string {
	c.mu.Lock()
	password := c.password
	c.mu.Unlock()
	if password != "" {
		text = strings.ReplaceAll(text, password, "(password)")
	}
	text = strings.ToValidUTF8(text, "?")
	text = strings.Join(strings.Fields(text), " ")
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
	if len(text) > maxSaid {
		text = strings.ToValidUTF8(text[:maxSaid], "") + "…"
	}
	return text
}
