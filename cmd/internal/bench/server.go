package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/pelletier/go-toml/v2"

	"holdfast/appliance"
	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest/tpm/swtpm"
	"holdfast/web"
	"holdfast/web/operation"
)

// server is a running server and how to call it.
type server struct {
	*process
	caller
	trust *tls.Config
	// bare is whether it is the bare handler.
	bare bool
	// machine is what it runs on; nil for the bare server.
	machine *swtpm.Process
}

// stop ends the server, then its machine.
func (s *server) stop() {
	s.process.stop()
	if s.machine != nil {
		s.machine.Stop()
	}
}

// startBare starts this program once more, as the bare server.
func (s *site) startBare(ctx context.Context) (*server, error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p, err := start("bare handler", s.path("bare.log"), self, bareCommand, addr, s.certificateFile(), s.keyFile())
	if err != nil {
		return nil, err
	}
	b := &server{process: p, caller: newCaller(addr), trust: s.trust, bare: true}
	// It does not look at the signature, which is there to make its requests as
	// long as those of the others.
	b.credential = aws.Credentials{AccessKeyID: "BENCHBENCHBENCHBENCHBENC", SecretAccessKey: "bare"}
	if _, err := b.waitReady(ctx); err != nil {
		b.stop()
		return nil, err
	}
	return b, nil
}

// installation is a Holdfast with its state, running or not.
type installation struct {
	site    *site
	program string // holdfastd
	// place is its word in --only, name what it is in tables. Its folder is in root.
	place, root, name string
	// module is the PKCS#11 module.
	module string
	// unlocked is keys.max_unlocked; 0 for the default.
	unlocked int
	// credential is that of its key store.
	credential aws.Credentials
}

const (
	keyStoreName   = "bench"
	keyStorePrefix = "/bench"
)

func (in *installation) dir() string    { return filepath.Join(in.root, in.place) }
func (in *installation) socket() string { return filepath.Join(in.dir(), "admin.sock") }

// start boots a machine for the server and starts it; it need not be ready yet.
func (in *installation) start() (*server, error) {
	if err := os.MkdirAll(in.dir(), 0o700); err != nil {
		return nil, err
	}
	xks, err := freeAddress()
	if err != nil {
		return nil, err
	}
	admin, err := freeAddress()
	if err != nil {
		return nil, err
	}
	sealed := filepath.Join(in.dir(), "pin.sealed")
	machine, err := in.site.officer.PowerOn(filepath.Join(in.dir(), "tpm"), sealed, in.site.pin)
	if err != nil {
		return nil, fmt.Errorf("simulated machine: %w", err)
	}
	p, err := in.startOn(machine, sealed, xks, admin)
	if err != nil {
		machine.Stop()
		return nil, err
	}
	h := &server{process: p, caller: newCaller(xks), trust: in.site.trust, machine: machine}
	h.credential = in.credential
	return h, nil
}

// writable is what the module changes: the tokens; and of a shim, what it is controlled by.
func (in *installation) writable() []string {
	paths := []string{in.site.path("token")}
	if in.module != in.site.module {
		paths = append(paths, filepath.Dir(in.module))
	}
	return paths
}

// startOn starts the server on a machine.
func (in *installation) startOn(machine *swtpm.Process, sealed, xks, admin string) (*process, error) {
	// All settings that bear on speed are left at their defaults. A machine that
	// stalls is to show in the figures and not to end the run, hence the timeout.
	c := config.Config{
		State:       config.State{Dir: in.dir()},
		HSM:         config.HSM{Module: in.module, TokenLabel: tokenLabel, Process: config.Process{Write: in.writable()}},
		Attestation: config.Attestation{TPM: machine.Socket, EventLog: filepath.Join(in.dir(), "tpm", swtpm.EventLog)},
		Release:     config.Release{SealedPIN: sealed},
		XKS: config.XKS{Address: xks, Certificate: in.site.certificateFile(), Key: in.site.keyFile(),
			RequestTimeout: config.Duration(10 * time.Second)},
		Keys:  config.Keys{MaxUnlocked: in.unlocked},
		Admin: config.Admin{Socket: in.socket(), Address: admin},
	}
	in.site.officer.Configure(&c)
	text, err := different(&c, &config.Config{})
	if err != nil {
		return nil, err
	}
	file := filepath.Join(in.dir(), "holdfast.toml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	return start(in.name, filepath.Join(in.dir(), "holdfast.log"), in.program, "serve", "--config", file)
}

// different gives the settings that are not those of the defaults. A program of before a
// change refuses settings that are new.
func different(c, defaults *config.Config) ([]byte, error) {
	var trees [2]map[string]any
	for i, one := range []*config.Config{c, defaults} {
		text, err := one.Effective()
		if err != nil {
			return nil, err
		}
		if err := toml.Unmarshal(text, &trees[i]); err != nil {
			return nil, err
		}
	}
	removeEqual(trees[0], trees[1])
	return toml.Marshal(trees[0])
}

// removeEqual removes what the other tree has as well.
func removeEqual(tree, other map[string]any) {
	for name, value := range tree {
		below, isTree := value.(map[string]any)
		if beside, ok := other[name].(map[string]any); isTree && ok {
			removeEqual(below, beside)
			if len(below) == 0 {
				delete(tree, name)
			}
		} else if reflect.DeepEqual(value, other[name]) {
			delete(tree, name)
		}
	}
}

// startReady starts the server and waits until it is ready.
func (in *installation) startReady(ctx context.Context) (*server, error) {
	_, there := os.Stat(filepath.Join(in.dir(), "holdfast.db"))
	s, err := in.start()
	if err != nil {
		return nil, err
	}
	if there != nil {
		if err := in.beginBeside(ctx, s); err != nil {
			s.stop()
			return nil, err
		}
	}
	if _, err := s.waitReady(ctx); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// beginBeside has a new installation begun where the token, which is that of the whole
// run, has another one already.
func (in *installation) beginBeside(ctx context.Context, s *server) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyWithin, fmt.Errorf("the boot did not end within %s", readyWithin))
	defer cancel()
	client := web.NewClient(in.socket())
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		var status operation.Status
		if err := client.Do(ctx, http.MethodGet, "status", nil, &status); err == nil {
			switch {
			case status.Boot.State == progress.Serving:
				return nil
			case status.Boot.Code == string(fault.StateMissing):
				return client.Do(ctx, http.MethodPost, "installation/begin", operation.Decision{Reason: "the token is that of the whole run"}, nil)
			}
		}
		select {
		case <-ctx.Done():
			return s.explain(context.Cause(ctx))
		case <-s.gone:
			return s.explain(errors.New("it ended instead of serving"))
		case <-tick.C:
		}
	}
}

// provision makes key store, credential and grant through the admin socket of
// a running server.
func (in *installation) provision(ctx context.Context, s *server) error {
	client := web.NewClient(in.socket())
	if err := client.Do(ctx, http.MethodPost, "keystores", operation.NewKeyStore{Name: keyStoreName, URIPathPrefix: keyStorePrefix}, nil); err != nil {
		return fmt.Errorf("make the key store: %w", err)
	}
	var c operation.CreatedCredential
	if err := client.Do(ctx, http.MethodPost, web.Path("keystores", keyStoreName, "credentials"), operation.NewCredential{}, &c); err != nil {
		return fmt.Errorf("make the credential: %w", err)
	}
	in.credential = aws.Credentials{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey}
	s.credential = in.credential
	g := operation.NewGrant{Principal: principal, Operations: []appliance.Operation{appliance.OpEncrypt, appliance.OpDecrypt}}
	if err := client.Do(ctx, http.MethodPost, web.Path("keystores", keyStoreName, "grants"), g, nil); err != nil {
		return fmt.Errorf("make the grant: %w", err)
	}
	return nil
}

// createKeys makes keys named custody-0, custody-1 and so on.
func (in *installation) createKeys(ctx context.Context, custody appliance.Custody, n int) ([]string, error) {
	client := web.NewClient(in.socket())
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("%s-%d", custody, i)
		k := operation.NewKey{ID: ids[i], Usage: appliance.Usage{Encrypt: true, Decrypt: true}, Custody: custody}
		if err := client.Do(ctx, http.MethodPost, web.Path("keystores", keyStoreName, "keys"), k, nil); err != nil {
			return nil, fmt.Errorf("make key %s: %w", ids[i], err)
		}
	}
	return ids, nil
}

const (
	// askEvery is the pause between two questions whether a server is ready.
	askEvery    = 2 * time.Millisecond
	readyWithin = time.Minute
)

// waitReady asks the HTTPS listener until it says that it is ready, and gives
// how long that took from the start of the process.
func (s *server) waitReady(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, readyWithin, fmt.Errorf("it was not ready within %s", readyWithin))
	defer cancel()
	transport := &http.Transport{TLSClientConfig: s.trust.Clone()}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		if s.ready(ctx, client) {
			return time.Since(s.began), nil
		}
		select {
		case <-ctx.Done():
			return 0, s.explain(context.Cause(ctx))
		case <-s.gone:
			return 0, s.explain(errors.New("it ended instead of serving"))
		case <-tick.C:
		}
	}
}

func (s *server) ready(ctx context.Context, client *http.Client) bool {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+s.addr+"/readyz", nil)
	if err != nil {
		return false
	}
	res, err := client.Do(r)
	if err != nil {
		return false // nobody listens yet
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body) // so that the connection is used again
	return res.StatusCode == http.StatusOK
}
