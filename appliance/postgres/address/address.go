// Package address reads the URL of a PostgreSQL database. It takes what Holdfast needs
// of libpq's form and refuses the rest with a sentence that says what to do; and the
// environment (PGSSLMODE, ~/.pgpass, service files) adds nothing to it.
package address

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
	"unicode"
)

// Address is where a database is, and who connects.
type Address struct {
	User, Database string
	// Hosts are the servers: the first that takes changes is used. There is at least one.
	Hosts []Host
}

// Host is one server.
type Host struct {
	// Name is a DNS name, an IP address, or the folder of a Unix socket.
	Name string
	Port uint16
}

// Socket says whether the host is a Unix socket of this machine.
func (h Host) Socket() bool { return strings.HasPrefix(h.Name, "/") }

// String gives the host for people.
func (h Host) String() string {
	if h.Socket() {
		return fmt.Sprintf("%s/.s.PGSQL.%d", strings.TrimSuffix(h.Name, "/"), h.Port)
	}
	return net.JoinHostPort(h.Name, strconv.Itoa(int(h.Port)))
}

// Socket says whether the database is reached by a Unix socket, so without TLS.
func (a *Address) Socket() bool { return a.Hosts[0].Socket() }

// String gives the servers and the database for people.
func (a *Address) String() string {
	var hosts []string
	for _, h := range a.Hosts {
		hosts = append(hosts, h.String())
	}
	return strings.Join(hosts, ",") + "/" + a.Database
}

const (
	form        = "it is not of the form postgres://USER@HOST:PORT/NAME"
	defaultPort = 5432
	maxLength   = 2048
	maxHosts    = 8
	maxName     = 63 // bytes; PostgreSQL cuts off more
)

// Parse reads a URL. Its errors do not repeat the URL, in which there may be a password.
func Parse(text string) (*Address, error) {
	rest, ok := strings.CutPrefix(text, "postgres://")
	if !ok {
		rest, ok = strings.CutPrefix(text, "postgresql://")
	}
	switch {
	case !ok:
		return nil, errors.New(form)
	case len(text) > maxLength:
		return nil, fmt.Errorf("it is longer than %d bytes", maxLength)
	case strings.Contains(text, "#"):
		return nil, errors.New("it has a #: write %23 in its place")
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, database, _ := strings.Cut(rest, "/")
	user, hosts := "", authority
	if at := strings.LastIndex(authority, "@"); at >= 0 {
		user, hosts = authority[:at], authority[at+1:]
	}
	if strings.Contains(user, ":") {
		return nil, errPassword
	}
	a := new(Address)
	var err error
	if a.User, err = name("user", user); err != nil {
		return nil, err
	}
	if a.Database, err = name("database", database); err != nil {
		return nil, err
	}
	parameters, err := url.ParseQuery(query)
	if err != nil {
		return nil, errors.New("what stands after the ? is not of the form KEY=VALUE&KEY=VALUE")
	}
	if err := allow(parameters); err != nil {
		return nil, err
	}
	if folder := parameters.Get("host"); parameters.Has("host") {
		return a, a.setSocket(folder, parameters, hosts)
	}
	if parameters.Has("port") {
		return nil, errors.New("port= is for a Unix socket; write HOST:PORT")
	}
	return a, a.setHosts(hosts)
}

var errPassword = errors.New("it has a password: write it to a file that only its owner can read, and name that in state.database_password_file")

// name reads the name of a user or a database.
func name(what, text string) (string, error) {
	s, err := url.PathUnescape(text)
	switch {
	case err != nil:
		return "", fmt.Errorf("the name of the %s has a %% that two hexadecimal digits do not follow: write %%25 in its place", what)
	case s == "":
		return "", fmt.Errorf("the name of the %s is missing: %s", what, form)
	case len(s) > maxName:
		return "", fmt.Errorf("the name of the %s has %d bytes; PostgreSQL takes %d", what, len(s), maxName)
	case strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || r == unicode.ReplacementChar }):
		return "", fmt.Errorf("the name of the %s has a character that is not printable", what)
	}
	return s, nil
}

// instead says what stands in the place of libpq's parameters.
var instead = map[string]string{
	"user":                 "write postgres://USER@HOST:PORT/NAME",
	"dbname":               "write postgres://USER@HOST:PORT/NAME",
	"passfile":             "name a file with the password alone in state.database_password_file",
	"service":              "write what the service file says into the URL",
	"servicefile":          "write what the service file says into the URL",
	"sslrootcert":          "name the file in state.database_ca",
	"sslcert":              "name the file in state.database_certificate",
	"sslkey":               "name the file in state.database_key",
	"target_session_attrs": "leave it out: of several hosts the one that takes changes is used",
}

func allow(parameters url.Values) error {
	for key, values := range parameters {
		switch {
		case len(values) != 1:
			return fmt.Errorf("%.64q stands in it %d times; once is allowed", key, len(values))
		case key == "password" || key == "sslpassword":
			return errPassword
		case key == "host" || key == "port":
		case key == "sslmode":
			if values[0] != "verify-full" {
				return errors.New("it has an sslmode other than verify-full, by which another server could pose as the database: leave sslmode out, and name the authority of the server's certificate in state.database_ca")
			}
		case instead[key] != "":
			return fmt.Errorf("it has %s: %s", key, instead[key])
		default:
			return fmt.Errorf("it has the parameter %.64q, which Holdfast does not know: leave it out", key)
		}
	}
	return nil
}

func (a *Address) setSocket(folder string, parameters url.Values, hosts string) error {
	switch {
	case !strings.HasPrefix(folder, "/"):
		return errors.New("host= is for the folder of a Unix socket, such as /run/postgresql; write postgres://USER@HOST:PORT/NAME for a server")
	case hosts != "":
		return errors.New("it has a host and host=; keep one of them")
	case path.Clean(folder) != folder || strings.ContainsAny(folder, ",\x00"):
		return errors.New("host= is not the path of a folder in its shortest form, such as /run/postgresql")
	case parameters.Has("sslmode"):
		return errors.New("it has sslmode and a Unix socket, which needs no TLS: leave sslmode out")
	}
	port, err := portNumber(parameters.Get("port"), parameters.Has("port"))
	a.Hosts = []Host{{folder, port}}
	return err
}

func (a *Address) setHosts(text string) error {
	hosts := strings.Split(text, ",")
	if len(hosts) > maxHosts {
		return fmt.Errorf("it has %d hosts; at most %d are allowed", len(hosts), maxHosts)
	}
	for _, one := range hosts {
		h, err := host(one)
		if err != nil {
			return err
		}
		a.Hosts = append(a.Hosts, h)
	}
	return nil
}

func host(text string) (Host, error) {
	wrong := errors.New("a host is not of the form HOST, HOST:PORT or [IPV6]:PORT; for a Unix socket write postgres://USER@/NAME?host=/run/postgresql")
	name, port, hasPort := strings.Cut(text, ":")
	if inside, ok := strings.CutPrefix(text, "["); ok {
		var after string
		if name, after, ok = strings.Cut(inside, "]"); !ok {
			return Host{}, wrong
		}
		if ip, err := netip.ParseAddr(name); err != nil || !ip.Is6() || ip.Zone() != "" {
			return Host{}, wrong
		}
		if port, hasPort = strings.CutPrefix(after, ":"); !hasPort && after != "" {
			return Host{}, wrong
		}
	} else if !hostName(name) {
		return Host{}, wrong
	}
	n, err := portNumber(port, hasPort)
	return Host{name, n}, err
}

func hostName(s string) bool {
	if s == "" || len(s) > 253 || strings.HasPrefix(s, "-") || strings.HasPrefix(s, ".") {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_')
	})
}

func portNumber(text string, there bool) (uint16, error) {
	if !there {
		return defaultPort, nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || text[0] == '+' {
		return 0, errors.New("a port is not a number from 1 to 65535")
	}
	return uint16(n), nil
}
