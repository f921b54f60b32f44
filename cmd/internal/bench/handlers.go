package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"holdfast/appliance"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
	"holdfast/appliance/sqlite"
	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
	"holdfast/xks"
)

// handlers counts what the handlers of a request allocate, in this process:
// what net/http and TLS allocate around them is the same for all.
func (s *site) handlers(ctx context.Context, o options) (out []Handler, err error) {
	db, err := sqlite.Open(ctx, filepath.Join(s.path("handlers"), "holdfast.db"), sqlite.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	token, err := hsm.Open(ctx, hsm.Config{Launcher: hsmtest.Launcher(), Module: s.module, TokenLabel: tokenLabel, PIN: s.pin})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, token.Close()) }()
	log := slog.New(slog.NewTextHandler(io.Discard, nil)) // a line per request, as in production
	a := appliance.New(appliance.Options{Store: db, Log: log})
	err = a.Unlock(ctx, keyring.New(token), []appliance.HSM{keyring.Watched(token)})
	if fault.CodeOf(err) == fault.StateMissing { // the token is that of the whole run
		_, err = a.Begin(ctx)
	}
	if err != nil {
		return nil, err
	}
	defer a.Lock()
	c, err := makeKey(ctx, a)
	if err != nil {
		return nil, err
	}

	api := xks.New(xks.Options{KeyStores: a, Log: log, Timeout: time.Minute})
	encrypt, err := c.exercise(appliance.OpEncrypt, c.encryptBody())
	if err != nil {
		return nil, err
	}
	answer, err := encrypt.run(api)
	if err != nil {
		return nil, err
	}
	body, err := decode(answer)
	if err != nil {
		return nil, err
	}
	decrypt, err := c.exercise(appliance.OpDecrypt, c.decryptBody(body))
	if err != nil {
		return nil, err
	}

	testing.Init() // what testing.Benchmark needs outside of a test
	if err := flag.Set("test.benchtime", fmt.Sprintf("%dx", o.handled)); err != nil {
		return nil, err
	}
	for _, h := range []struct {
		name    string
		handler http.Handler
		with    *exercise
	}{
		{"bare", http.HandlerFunc(bareHandler), encrypt},
		{"Encrypt, cached", api, encrypt},
		{"Decrypt, cached", api, decrypt},
	} {
		var failed error
		r := testing.Benchmark(func(b *testing.B) {
			for b.Loop() {
				if _, failed = h.with.run(h.handler); failed != nil {
					b.FailNow()
				}
			}
		})
		if failed != nil {
			return nil, fmt.Errorf("handler %s: %w", h.name, failed)
		}
		out = append(out, Handler{Name: h.name, Allocs: r.AllocsPerOp(), Bytes: r.AllocedBytesPerOp(), Micros: float64(r.NsPerOp()) / 1000})
	}
	return out, nil
}

const handlerKey = "key"

// makeKey makes a key store with a key, and gives who may call it.
func makeKey(ctx context.Context, a *appliance.Appliance) (*caller, error) {
	if _, err := a.CreateKeyStore(ctx, appliance.KeyStore{Name: keyStoreName, URIPathPrefix: keyStorePrefix}); err != nil {
		return nil, err
	}
	credential, secret, err := a.CreateCredential(ctx, keyStoreName, appliance.NewCredential{})
	if err != nil {
		return nil, err
	}
	ops := []appliance.Operation{appliance.OpEncrypt, appliance.OpDecrypt}
	if _, err := a.AddGrant(ctx, keyStoreName, appliance.Grant{Principal: principal, Operations: ops}); err != nil {
		return nil, err
	}
	key := appliance.NewExternalKey{ID: handlerKey, Usage: appliance.Usage{Encrypt: true, Decrypt: true}, Custody: appliance.CustodyCached}
	if _, err := a.CreateKey(ctx, keyStoreName, key); err != nil {
		return nil, err
	}
	c := newCaller("127.0.0.1")
	c.credential = aws.Credentials{AccessKeyID: credential.AccessKeyID, SecretAccessKey: secret}
	return &c, nil
}

// exercise is a request that is handled again and again without allocations of
// its own.
type exercise struct {
	request *http.Request
	body    []byte
	reader  bytes.Reader
	answer  recorder
}

func (c *caller) exercise(operation appliance.Operation, body any) (*exercise, error) {
	r, encoded, err := c.request(handlerKey, operation, body)
	if err != nil {
		return nil, err
	}
	e := &exercise{request: r, body: encoded, answer: recorder{header: http.Header{}}}
	r.Body = io.NopCloser(&e.reader)
	return e, nil
}

// run gives the body of the answer, which is valid until the next run.
func (e *exercise) run(h http.Handler) ([]byte, error) {
	e.reader.Reset(e.body)
	e.answer.reset()
	h.ServeHTTP(&e.answer, e.request)
	if e.answer.status != http.StatusOK {
		return nil, fmt.Errorf("answered %d: %.200q", e.answer.status, e.answer.body)
	}
	return e.answer.body, nil
}

// recorder is an [http.ResponseWriter] that keeps the answer. That of
// net/http/httptest knows no deadlines, which the handler sets.
type recorder struct {
	header http.Header
	status int
	body   []byte
}

func (r *recorder) reset() {
	clear(r.header)
	r.status, r.body = http.StatusOK, r.body[:0]
}

func (r *recorder) Header() http.Header             { return r.header }
func (r *recorder) WriteHeader(status int)          { r.status = status }
func (r *recorder) SetReadDeadline(time.Time) error { return nil }
func (r *recorder) Write(p []byte) (int, error) {
	r.body = append(r.body, p...)
	return len(p), nil
}
