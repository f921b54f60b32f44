// Command provider is an OpenID provider for tests of the console: the library of Zitadel, which is
// certified for OpenID Connect, with the login page and the users of its example. It is a module of
// its own, so that what it needs is not needed by the product.
//
// It serves on the listener that it is handed (descriptor 3), with the certificate and key of the
// files that it is given. Tests set the redirect URI of its client, and the groups of a user, by POST /test.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

func main() {
	if err := run(); err != nil {
		log.Fatal("provider: ", err)
	}
}

func run() error {
	if len(os.Args) != 3 {
		return errors.New("give the files of the certificate and of its key")
	}
	pair, err := tls.LoadX509KeyPair(os.Args[1], os.Args[2])
	if err != nil {
		return err
	}
	l, err := net.FileListener(os.NewFile(3, "the listener that the test hands on"))
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return err
	}
	issuer := "https://localhost:" + port
	storage.RegisterClients(storage.WebClient("console", "secret of the test"))
	s := &store{Storage: storage.NewStorage(storage.NewUserStore(issuer)), groups: map[string][]string{}}
	router := exampleop.SetupServer(issuer, s, slog.New(slog.DiscardHandler), false)
	router.Post("/test", s.set)
	server := &http.Server{Handler: router, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, ReadHeaderTimeout: 5 * time.Second}
	return server.ServeTLS(l, "", "")
}

// store is the example's, with groups and a client whose redirect URI is set.
type store struct {
	*storage.Storage
	mu       sync.Mutex
	redirect string
	groups   map[string][]string // by the user's ID
}

func (s *store) set(_ http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if to := r.FormValue("redirect"); to != "" {
		s.redirect = to
	}
	if user := r.FormValue("user"); user != "" {
		s.groups[user] = strings.Fields(r.FormValue("groups"))
	}
}

// client is the console.
type client struct {
	op.Client
	redirect string
}

func (c client) RedirectURIs() []string { return []string{c.redirect} }

func (s *store) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	c, err := s.Storage.GetClientByClientID(ctx, id)
	s.mu.Lock()
	defer s.mu.Unlock()
	return client{c, s.redirect}, err
}

func (s *store) claims(info *oidc.UserInfo, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if groups, ok := s.groups[info.Subject]; ok {
		info.AppendClaims("groups", groups)
	}
	return err
}

func (s *store) SetUserinfoFromRequest(ctx context.Context, info *oidc.UserInfo, r op.IDTokenRequest, scopes []string) error {
	return s.claims(info, s.Storage.SetUserinfoFromRequest(ctx, info, r, scopes))
}

func (s *store) SetUserinfoFromToken(ctx context.Context, info *oidc.UserInfo, token, subject, origin string) error {
	return s.claims(info, s.Storage.SetUserinfoFromToken(ctx, info, token, subject, origin))
}
