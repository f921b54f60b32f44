package release

import (
	"cmp"
	"context"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/time/rate"

	"holdfast/appliance/fault"
	"holdfast/attest"
)

// nonceLife is how long a nonce may be used, once; maxNonces bounds how many
// are open.
const (
	nonceLife = time.Minute
	maxNonces = 1000
)

// BrokerOptions are the settings of a [Broker]. Vault is needed.
type BrokerOptions struct {
	Vault *Vault
	Log   *slog.Logger
	Now   func() time.Time
	// Roots are those of a simulated platform; nil trusts the manufacturers.
	Roots *attest.Roots
	// Rate is how many requests are answered per minute and address, default 10.
	Rate int
}

// Broker releases credentials to machines whose evidence is good. It is an
// [http.Handler] for the server that [Broker.Server] makes.
type Broker struct {
	o BrokerOptions

	mu       sync.Mutex
	nonces   map[[nonceBytes]byte]issued
	limiters map[string]*rate.Limiter
}

// issued is a nonce that is open: it belongs to one TLS key.
type issued struct {
	until time.Time
	key   string
}

// NewBroker makes a broker.
func NewBroker(o BrokerOptions) *Broker {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rate <= 0 {
		o.Rate = 10
	}
	return &Broker{o: o, nonces: map[[nonceBytes]byte]issued{}, limiters: map[string]*rate.Limiter{}}
}

// Server gives the HTTPS server of the broker. Its certificate's key is what
// machines pin.
func (b *Broker) Server(certificate tls.Certificate) *http.Server {
	return &http.Server{
		Handler: b,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate},
			ClientAuth: tls.RequireAnyClientCert}, // whose key the evidence must name
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 20 * time.Second, WriteTimeout: 20 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 8 << 10,
		ErrorLog:       slog.NewLogLogger(b.o.Log.Handler(), slog.LevelDebug),
	}
}

// ServeHTTP answers a request of the protocol.
func (b *Broker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, err := b.serve(w, r)
	if err == nil {
		write(w, http.StatusOK, answer)
		return
	}
	if _, known := errors.AsType[*fault.Fault](err); !known {
		err = fault.Wrapf(fault.BrokerInternal, err, "the broker failed")
	}
	f := fault.Answer(r.Context(), b.o.Log, "a request failed", err, "path", r.URL.Path, "remote", r.RemoteAddr)
	write(w, f.Code.Entry().Status, errorAnswer{f.Codes(), f.Message})
}

func write(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		status, text = http.StatusInternalServerError, []byte(`{"code":"`+fault.BrokerInternal+`","reason":""}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(text)
}

func (b *Broker) serve(w http.ResponseWriter, r *http.Request) (any, error) {
	certificate, err := peer(r.TLS)
	if err != nil {
		return nil, fault.Errorf(fault.BrokerRequest, "%s", err.Error())
	}
	if r.Method != http.MethodPost {
		return nil, fault.Errorf(fault.BrokerRequest, "only POST is answered")
	}
	if !b.allow(r.RemoteAddr) {
		return nil, fault.Errorf(fault.BrokerBusy, "too many requests from this address; try again in a minute")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxMessage))
	if err != nil {
		return nil, fault.Errorf(fault.BrokerRequest, "the request cannot be read, or has more than %d bytes", maxMessage)
	}
	switch r.URL.Path {
	case "/v1/nonce":
		return b.nonce(Pin(certificate))
	case "/v1/release", "/v1/state":
		var req releaseRequest
		if err := decode(body, &req); err != nil {
			return nil, fault.Errorf(fault.BrokerRequest, "the request is not understood")
		}
		if r.URL.Path == "/v1/state" {
			return b.state(r.RemoteAddr, Pin(certificate), certificate.RawSubjectPublicKeyInfo, req)
		}
		return b.release(r.Context(), r.RemoteAddr, Pin(certificate), certificate.RawSubjectPublicKeyInfo, req)
	}
	return nil, fault.Errorf(fault.BrokerRequest, "there is nothing at that path")
}

// allow takes a request from the quota of its address.
func (b *Broker) allow(remote string) bool {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.limiters[host]
	if l == nil {
		if len(b.limiters) >= maxNonces {
			clear(b.limiters) // forgetting is cheaper than being filled
		}
		l = rate.NewLimiter(rate.Limit(float64(b.o.Rate)/60), b.o.Rate)
		b.limiters[host] = l
	}
	return l.AllowN(b.o.Now(), 1)
}

func (b *Broker) nonce(key string) (*nonceAnswer, error) {
	n := make([]byte, nonceBytes)
	_, _ = rand.Read(n) // never fails (crypto/rand)
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.o.Now()
	for old, i := range b.nonces {
		if now.After(i.until) {
			delete(b.nonces, old)
		}
	}
	if len(b.nonces) >= maxNonces {
		return nil, fault.Errorf(fault.BrokerBusy, "too many machines ask at once; try again in a minute")
	}
	b.nonces[[nonceBytes]byte(n)] = issued{now.Add(nonceLife), key}
	return &nonceAnswer{n}, nil
}

// take uses a nonce up. It says whether it was open, and that key's.
func (b *Broker) take(nonce []byte, key string) bool {
	if len(nonce) != nonceBytes {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i, ok := b.nonces[[nonceBytes]byte(nonce)]
	delete(b.nonces, [nonceBytes]byte(nonce))
	return ok && i.key == key && !b.o.Now().After(i.until)
}

// release decides, and logs what it decided before anything leaves.
func (b *Broker) release(_ context.Context, remote, key string, spki []byte, req releaseRequest) (any, error) {
	sum := sha256.Sum256(req.Evidence)
	record := Record{Time: b.o.Now().UTC().Truncate(time.Millisecond), Machine: req.Machine, Remote: remote, Result: Released, EvidenceDigest: hex.EncodeToString(sum[:])}
	if !machineName.MatchString(req.Machine) {
		record.Machine = "" // it may be anything
	}
	answer, err := b.decide(key, spki, req, &record)
	if err != nil {
		record.Result, record.Code, record.Reason = Refused, string(fault.BrokerInternal), err.Error()
		if refused, ok := errors.AsType[*fault.Fault](err); ok {
			record.Code, record.Reason = refused.Codes(), refused.Message
		}
	}
	if logErr := b.o.Vault.log(record); logErr != nil {
		return nil, fmt.Errorf("the decision cannot be logged, so nothing is released: %w", logErr)
	}
	b.o.Log.Info("release", "machine", record.Machine, "remote", remote, "result", record.Result, "code", record.Code, "reason", record.Reason)
	if u := record.Unproven; u.Words != "" {
		b.o.Log.Warn("the policy does not prove which code runs", "policy_version", record.PolicyVersion, "unproven", u.Words, "because", strings.Join(u.Because, "; "))
	}
	return answer, err
}

func (b *Broker) decide(key string, spki []byte, req releaseRequest, record *Record) (*releaseAnswer, error) {
	policy, err := b.policy()
	if err != nil {
		return nil, err
	}
	record.PolicyVersion, record.Unproven = policy.Version, policy.Forced()
	evidence, err := b.appraise(policy, key, spki, req, true)
	if err != nil {
		return nil, err
	}
	public, err := kem().NewPublicKey(evidence.ReleaseKey)
	if err != nil {
		return nil, fault.Errorf(fault.BrokerKey, "the evidence names no key to which a credential can be encrypted")
	}
	credential, err := b.o.Vault.credential(req.Machine)
	if err != nil {
		return nil, err
	}
	defer clear(credential)
	sealed, err := hpke.Seal(public, kdf(), aead(), info(req.Machine, evidence.Nonce), credential)
	if err != nil {
		return nil, err
	}
	return &releaseAnswer{sealed}, nil
}

// policy gives the policy in force.
func (b *Broker) policy() (*attest.SignedPolicy, error) {
	policy, err := b.o.Vault.Policy()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Errorf(fault.BrokerPolicy, "the broker has no policy yet, so it releases nothing")
	}
	if errors.Is(err, attest.ErrUnproven) {
		return nil, fault.Errorf(fault.BrokerPolicy, "the broker's policy cannot be used, so it releases nothing: %s", err)
	}
	return policy, err
}

// appraise gives the evidence of a request, if it is good: for a release, or of a machine
// that has had its credential.
func (b *Broker) appraise(policy *attest.SignedPolicy, key string, spki []byte, req releaseRequest, releases bool) (*attest.Evidence, error) {
	evidence, err := attest.Parse(req.Evidence)
	if err != nil {
		return nil, fault.Errorf(fault.BrokerRequest, "%s", err.Error())
	}
	if !b.take(evidence.Nonce, key) {
		return nil, fault.Errorf(fault.BrokerNonce, "the evidence's nonce is not one that was given to this connection within the last minute, or was used already")
	}
	verdict := attest.Verify(evidence, &policy.Policy, attest.Expectation{
		At: b.o.Now(), Nonce: evidence.Nonce, TLSKey: spki, Release: releases, Signed: policy, Roots: b.o.Roots})
	if err := policy.Accept(verdict); err != nil {
		return nil, fault.Decoded(cmp.Or(verdict.Against(), string(fault.BrokerEvidence)), err.Error())
	}
	return evidence, nil
}
