package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/postgres"
	"holdfast/appliance/postgres/postgrestest"
	"holdfast/appliance/storetest"
)

// refused opens, which must fail with the code and a text that has the part. No text may
// have the password, or more than one line.
func refused(t *testing.T, o postgres.Options, code fault.Code, part string) {
	t.Helper()
	l, err := postgres.Open(t.Context(), o)
	if err == nil {
		l.Close()
		t.Errorf("%+v is taken", o)
		return
	}
	storetest.Wants(t, err, code, part)
	var f *fault.Fault
	if errors.As(err, &f) && !strings.Contains(f.Message, "database") {
		t.Errorf("the message does not say what it is about: %s", f.Message)
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		if strings.Contains(e.Error(), postgrestest.Password) {
			t.Errorf("the password is in an error: %v", e)
		}
	}
	if strings.ContainsAny(err.Error(), "\n\r") {
		t.Errorf("an error of several lines: %q", err)
	}
}

func write(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestTLS: who the server is, and who this node is, is verified on each side.
func TestTLS(t *testing.T) {
	s := postgrestest.Start(t)
	name := s.NewDatabase(t)
	s.Exec("GRANT CREATE ON DATABASE " + name + " TO certified; ALTER DATABASE " + name + " OWNER TO certified; GRANT certified TO holdfast")
	url := func(user, host string) string { return fmt.Sprintf("postgres://%s@%s/%s", user, host, name) }
	port := strings.TrimPrefix(s.Address(), "localhost:")
	password := postgres.Options{URL: url(postgrestest.User, s.Address()), PasswordFile: s.TLS.PasswordFile, CA: s.TLS.CA}
	certificate := postgres.Options{URL: url("certified", s.Address()), CA: s.TLS.CA, Certificate: s.TLS.Certificate, Key: s.TLS.Key}

	for _, o := range []postgres.Options{certificate, password} {
		open(t, o)
	}
	ip, socket := "127.0.0.1:"+port, s.URL
	for what, c := range map[string]struct {
		change func(o *postgres.Options)
		code   fault.Code
		part   string
	}{
		"another authority":            {func(o *postgres.Options) { o.CA = s.TLS.OtherCA }, fault.DatabaseRefused, "state.database_ca"},
		"system authorities":           {func(o *postgres.Options) { o.CA = "" }, fault.DatabaseRefused, "state.database_ca"},
		"another name":                 {func(o *postgres.Options) { o.URL = url(postgrestest.User, ip) }, fault.DatabaseRefused, "another name"},
		"no such file":                 {func(o *postgres.Options) { o.CA = "/nonexistent/ca" }, fault.DatabaseRefused, "state.database_ca"},
		"no certificate":               {func(o *postgres.Options) { o.CA = write(t, "x", 0o644) }, fault.DatabaseRefused, "PEM"},
		"wrong password":               {func(o *postgres.Options) { o.PasswordFile = write(t, "wrong\n", 0o600) }, fault.DatabaseRefused, "state.database_password_file"},
		"no password":                  {func(o *postgres.Options) { o.PasswordFile = "" }, fault.DatabaseRefused, ""},
		"empty password":               {func(o *postgres.Options) { o.PasswordFile = write(t, "\n", 0o600) }, fault.DatabaseRefused, "one line"},
		"two lines":                    {func(o *postgres.Options) { o.PasswordFile = write(t, "a\nb\n", 0o600) }, fault.DatabaseRefused, "one line"},
		"open password":                {func(o *postgres.Options) { o.PasswordFile = write(t, postgrestest.Password, 0o644) }, fault.DatabaseRefused, "chmod 600"},
		"gone password":                {func(o *postgres.Options) { o.PasswordFile = "/nonexistent/password" }, fault.DatabaseRefused, "state.database_password_file"},
		"unknown user":                 {func(o *postgres.Options) { o.URL = url("nobody", s.Address()) }, fault.DatabaseRefused, "login"},
		"no database":                  {func(o *postgres.Options) { o.URL = strings.Replace(o.URL, name, "nothing", 1) }, fault.DatabaseRefused, "not there"},
		"another's database":           {func(o *postgres.Options) { o.URL = strings.Replace(o.URL, name, "template1", 1) }, fault.DatabaseRefused, "permission"},
		"no server":                    {func(o *postgres.Options) { o.URL = url(postgrestest.User, "localhost:1") }, fault.DatabaseAway, "could not be reached"},
		"no such name":                 {func(o *postgres.Options) { o.URL = url(postgrestest.User, "nothing.invalid") }, fault.DatabaseAway, "could not be reached"},
		"no certificate of the client": {func(o *postgres.Options) { o.URL = certificate.URL }, fault.DatabaseRefused, "login"},
		"certificate of another": {func(o *postgres.Options) {
			o.URL, o.Certificate, o.Key = certificate.URL, s.TLS.CA, s.TLS.Key
		}, fault.DatabaseRefused, "not a pair"},
		"certificate without key": {func(o *postgres.Options) { o.Certificate = s.TLS.Certificate }, fault.Invalid, "belong together"},
		"open key": {func(o *postgres.Options) {
			text, err := os.ReadFile(s.TLS.Key)
			storetest.Must(t, err)
			o.URL, o.Certificate, o.Key = certificate.URL, s.TLS.Certificate, write(t, string(text), 0o640)
		}, fault.DatabaseRefused, "chmod 600"},
		"password in the URL": {func(o *postgres.Options) {
			o.URL = strings.Replace(o.URL, "@", ":"+postgrestest.Password+"@", 1)
		}, fault.Invalid, "state.database_password_file"},
		"no TLS asked for": {func(o *postgres.Options) { o.URL += "?sslmode=require" }, fault.Invalid, "state.database_ca"},
	} {
		t.Run(what, func(t *testing.T) {
			o := password
			c.change(&o)
			refused(t, o, c.code, c.part)
		})
	}
	open(t, postgres.Options{URL: strings.Replace(socket, "/postgres?", "/"+name+"?", 1)}) // no TLS, and no password
	// Of several hosts the first that can be used is.
	several := password
	several.URL = url(postgrestest.User, "localhost:1,"+s.Address())
	open(t, several)
}

// TestNoTLS: a server that speaks no TLS is not used, whatever it offers.
func TestNoTLS(t *testing.T) {
	s := postgrestest.Start(t, "ssl=off")
	refused(t, postgres.Options{URL: "postgres://holdfast@" + s.Address() + "/postgres", PasswordFile: s.TLS.PasswordFile, CA: s.TLS.CA}, fault.DatabaseRefused, "ssl = on")
}

// TestEnvironment: what libpq takes from the environment changes nothing.
func TestEnvironment(t *testing.T) {
	s := postgrestest.Start(t)
	url := "postgres://holdfast@" + s.Address() + "/" + s.NewDatabase(t)
	home := t.TempDir()
	storetest.Must(t, errors.Join(
		os.WriteFile(filepath.Join(home, ".pgpass"), []byte("*:*:*:*:"+postgrestest.Password+"\n"), 0o600),
		os.WriteFile(filepath.Join(home, "service"), []byte("[x]\nhost=localhost\nsslmode=disable\npassword="+postgrestest.Password+"\n"), 0o600)))
	set := map[string]string{"HOME": home, "PGPASSFILE": filepath.Join(home, ".pgpass"), "PGPASSWORD": postgrestest.Password, "PGSERVICE": "x", "PGSERVICEFILE": filepath.Join(home, "service"),
		"PGSSLMODE": "disable", "PGSSLROOTCERT": s.TLS.CA, "PGHOST": "nothing.invalid", "PGPORT": "1", "PGUSER": "nobody", "PGDATABASE": "nothing", "PGOPTIONS": "-c synchronous_commit=off",
		"PGTARGETSESSIONATTRS": "standby", "PGCONNECT_TIMEOUT": "x", "PGSSLCERT": "/nonexistent", "PGSSLKEY": "/nonexistent", "PGSSLNEGOTIATION": "direct", "PGSSLCERTMODE": "require", "PGSSLSNI": "0",
		"PGMINPROTOCOLVERSION": "x", "PGMAXPROTOCOLVERSION": "x", "PGCHANNELBINDING": "x", "PGREQUIREAUTH": "none", "PGTZ": "x", "PGAPPNAME": "x", "PGSSLPASSWORD": "x"}
	right := postgres.Options{URL: url, PasswordFile: s.TLS.PasswordFile, CA: s.TLS.CA}
	for name, value := range set {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			open(t, right)
		})
	}
	for name, value := range set {
		t.Setenv(name, value)
	}
	open(t, right)
	for what, o := range map[string]postgres.Options{
		"no password":  {URL: url, CA: s.TLS.CA},
		"no authority": {URL: url, PasswordFile: s.TLS.PasswordFile},
	} {
		t.Run(what, func(t *testing.T) { refused(t, o, fault.DatabaseRefused, "") })
	}
}

// TestReconnect: after a crash of the server, and of the pooler, it is used again as it
// was; what was answered is there.
func TestReconnect(t *testing.T) {
	s := postgrestest.Start(t)
	pooler := s.Pooler()
	for name, url := range map[string]string{"direct": s.Database(t), "pgbouncer": pooler.Database(t, s)} {
		t.Run(name, func(t *testing.T) {
			l := open(t, postgres.Options{URL: url})
			storetest.Must(t, l.Append(t.Context(), 1, []byte("one")))
			s.Kill()
			short, end := context.WithTimeout(t.Context(), 2*time.Second)
			defer end()
			storetest.Wants(t, l.Append(short, 2, []byte("two")), fault.DatabaseAway, "")
			pooler.Restart()
			s.Restart()
			await(t, func() bool { n, err := l.Newest(t.Context()); return err == nil && n == 1 })
			storetest.Must(t, l.Append(t.Context(), 2, []byte("two")))
		})
	}
}

// await waits until it is so, for at most a minute.
func await(t *testing.T, so func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if so() {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
	t.Fatal("it does not come to be so")
}
