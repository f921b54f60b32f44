package address_test

import (
	"reflect"
	"strings"
	"testing"

	"holdfast/appliance/postgres/address"
)

func TestParse(t *testing.T) {
	hosts := func(h ...address.Host) []address.Host { return h }
	for text, want := range map[string]address.Address{
		"postgres://u@db.example:5433/n":                         {User: "u", Database: "n", Hosts: hosts(address.Host{Name: "db.example", Port: 5433})},
		"postgresql://u@10.0.0.1/n":                              {User: "u", Database: "n", Hosts: hosts(address.Host{Name: "10.0.0.1", Port: 5432})},
		"postgres://u%40x@[::1]:1/a%2Fb":                         {User: "u@x", Database: "a/b", Hosts: hosts(address.Host{Name: "::1", Port: 1})},
		"postgres://u@[fd00::2]/n?sslmode=verify-full":           {User: "u", Database: "n", Hosts: hosts(address.Host{Name: "fd00::2", Port: 5432})},
		"postgres://u@a,b:65535/n":                               {User: "u", Database: "n", Hosts: hosts(address.Host{Name: "a", Port: 5432}, address.Host{Name: "b", Port: 65535})},
		"postgres://u@/n?host=/run/postgresql":                   {User: "u", Database: "n", Hosts: hosts(address.Host{Name: "/run/postgresql", Port: 5432})},
		"postgres://u@/n?host=%2Frun%2Fpostgresql&port=6432":     {User: "u", Database: "n", Hosts: hosts(address.Host{Name: "/run/postgresql", Port: 6432})},
		"postgres://" + strings.Repeat("u", 63) + "@h/" + "n%20": {User: strings.Repeat("u", 63), Database: "n ", Hosts: hosts(address.Host{Name: "h", Port: 5432})},
	} {
		got, err := address.Parse(text)
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%s: got %+v %v", text, got, err)
		}
	}
}

// TestRefused: each says what to do, and none repeats what might be a secret.
func TestRefused(t *testing.T) {
	const secret = "s3cret"
	for text, want := range map[string]string{
		"": "not of the form", "holdfast": "not of the form", "mysql://u@h/n": "not of the form", "host=h user=u": "not of the form",
		"postgres://":    "user is missing",
		"postgres://h/n": "user is missing", "postgres://@h/n": "user is missing",
		"postgres://u@h": "database is missing", "postgres://u@h/": "database is missing",
		"postgres://u@/n": "a host is not of the form", "postgres://u@:5/n": "a host is not of the form", "postgres://u@a,/n": "a host is not of the form",
		"postgres://u@::1/n": "a host is not of the form", "postgres://u@[::1/n": "a host is not of the form", "postgres://u@[::1]5/n": "a host is not of the form",
		"postgres://u@[10.0.0.1]/n": "a host is not of the form", "postgres://u@[fe80::1%25eth0]/n": "a host is not of the form",
		"postgres://u@h h/n": "a host is not of the form", "postgres://u@h%2F/n": "a host is not of the form", "postgres://u@h\n/n": "a host is not of the form",
		"postgres://u@h:/n": "a port is not", "postgres://u@h:0/n": "a port is not", "postgres://u@h:65536/n": "a port is not", "postgres://u@h:+5/n": "a port is not",
		"postgres://u@h:-1/n": "a port is not", "postgres://u@h:x/n": "a port is not", "postgres://u@/n?host=/run&port=": "a port is not",
		"postgres://u:" + secret + "@h/n":                         "state.database_password_file",
		"postgres://u:@h/n":                                       "state.database_password_file",
		"postgres://u:" + secret + "@x@h/n":                       "state.database_password_file",
		"postgres://u@h/n?password=" + secret:                     "state.database_password_file",
		"postgres://u@h/n?sslpassword=" + secret:                  "state.database_password_file",
		"postgres://u@h/n?passfile=/x":                            "state.database_password_file",
		"postgres://u@h/n?sslmode=disable":                        "state.database_ca",
		"postgres://u@h/n?sslmode=require":                        "state.database_ca",
		"postgres://u@h/n?sslmode=verify-ca":                      "state.database_ca",
		"postgres://u@h/n?sslmode=":                               "state.database_ca",
		"postgres://u@h/n?sslmode=verify-full&sslmode=disable":    "2 times",
		"postgres://u@h/n?sslrootcert=/x":                         "state.database_ca",
		"postgres://u@h/n?sslcert=/x":                             "state.database_certificate",
		"postgres://u@h/n?sslkey=/x":                              "state.database_key",
		"postgres://u@h/n?service=x":                              "service file",
		"postgres://u@h/n?servicefile=x":                          "service file",
		"postgres://u@h/n?user=x":                                 "postgres://USER@HOST",
		"postgres://u@h/n?dbname=x":                               "postgres://USER@HOST",
		"postgres://u@h/n?target_session_attrs=any":               "leave it out",
		"postgres://u@h/n?options=-csynchronous_commit%3Doff":     "leave it out",
		"postgres://u@h/n?pool_max_conns=1":                       "leave it out",
		"postgres://u@h/n?" + strings.Repeat("x", 500):            "leave it out",
		"postgres://u@h/n?port=5":                                 "HOST:PORT",
		"postgres://u@h/n?host=/run":                              "keep one",
		"postgres://u@/n?host=h":                                  "folder of a Unix socket",
		"postgres://u@/n?host=":                                   "folder of a Unix socket",
		"postgres://u@/n?host=/run,/tmp":                          "shortest form",
		"postgres://u@/n?host=/run/../tmp":                        "shortest form",
		"postgres://u@/n?host=/run&sslmode=verify-full":           "leave sslmode out",
		"postgres://u@h/n#x":                                      "%23",
		"postgres://u%zz@h/n":                                     "%25",
		"postgres://u@h/n%":                                       "%25",
		"postgres://u@h/n%00":                                     "not printable",
		"postgres://u@h/n?x=%zz":                                  "KEY=VALUE",
		"postgres://" + strings.Repeat("u", 64) + "@h/n":          "64 bytes",
		"postgres://u@" + strings.Repeat("h,", 8) + "h/n":         "9 hosts",
		"postgres://u@" + strings.Repeat("h", 3000) + "/n":        "longer than",
		"postgres://u@" + strings.Repeat("h", 254) + ":" + secret: "database is missing",
	} {
		a, err := address.Parse(text)
		switch {
		case err == nil:
			t.Errorf("%q is taken: %+v", text, a)
		case !strings.Contains(err.Error(), want):
			t.Errorf("%q: got %v, want %q", text, err, want)
		case strings.Contains(err.Error(), secret) || strings.ContainsAny(err.Error(), "\n\x00") || len(err.Error()) > 300:
			t.Errorf("%q: the error is not fit to be shown: %v", text, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"postgres://u@h:1/n", "postgres://u@[::1],b/n?sslmode=verify-full", "postgres://u@/n?host=/run&port=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := address.Parse(text)
		if err != nil {
			return
		}
		if a.User == "" || a.Database == "" || len(a.Hosts) == 0 {
			t.Errorf("%q: %+v", text, a)
		}
		for _, h := range a.Hosts {
			if h.Name == "" || h.Port == 0 || h.Socket() != a.Socket() {
				t.Errorf("%q: %+v", text, a)
			}
		}
	})
}
