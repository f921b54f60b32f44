package release

import (
	"cmp"
	"crypto/hpke"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"holdfast/appliance/fault"
	"holdfast/attest"
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
	o      BrokerOptions
	nonces *nonces
	quotas *quotas
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
	return &Broker{o: o, nonces: newNonces(), quotas: newQuotas(o.Rate)}
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
	if known, _ := errors.AsType[*fault.Fault](err); known != nil && known.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(known.RetryAfter.Seconds())))
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
	if wait := b.quotas.take(r.RemoteAddr, b.o.Now()); wait > 0 {
		return nil, &fault.Fault{Code: fault.BrokerBusy, Message: fmt.Sprintf("too many requests from this address; try again in %s", wait), RetryAfter: wait}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxMessage))
	if err != nil {
		return nil, fault.Errorf(fault.BrokerRequest, "the request cannot be read, or has more than %d bytes", maxMessage)
	}
	switch r.URL.Path {
	case "/v1/nonce":
		return &nonceAnswer{b.nonces.issue(b.o.Now(), Pin(certificate))}, nil
	case "/v1/release", "/v1/state", "/v1/history":
		var req releaseRequest
		if err := decode(body, &req); err != nil {
			return nil, fault.Errorf(fault.BrokerRequest, "the request is not understood")
		}
		switch r.URL.Path {
		case "/v1/state":
			return b.state(r.RemoteAddr, Pin(certificate), certificate.RawSubjectPublicKeyInfo, req)
		case "/v1/history":
			return b.history(r.RemoteAddr, Pin(certificate), certificate.RawSubjectPublicKeyInfo, req)
		}
		return b.release(r.RemoteAddr, Pin(certificate), certificate.RawSubjectPublicKeyInfo, req)
	}
	return nil, fault.Errorf(fault.BrokerRequest, "there is nothing at that path")
}

// release decides, and logs what it decided before anything leaves.
func (b *Broker) release(remote, key string, spki []byte, req releaseRequest) (any, error) {
	sum := sha256.Sum256(req.Evidence)
	record := Record{Time: b.o.Now(), Machine: req.Machine, Remote: remote, Result: Released, EvidenceDigest: hex.EncodeToString(sum[:])}
	if !machineName.MatchString(req.Machine) {
		record.Machine = "" // it may be anything
	}
	policy, evidence, err := b.examine(key, spki, req, &record)
	var answer *releaseAnswer
	logErr := b.o.Vault.locked(func(l *ledger) error {
		if err == nil {
			answer, err = l.give(policy, evidence, req.Machine, &record)
		}
		if err != nil {
			record.Result, record.Admission, record.Code, record.Reason = Refused, nil, string(fault.BrokerInternal), err.Error()
			if refused, ok := errors.AsType[*fault.Fault](err); ok {
				record.Code, record.Reason = refused.Codes(), refused.Message
			}
		}
		_, logErr := l.append(record)
		return logErr
	})
	if broken, ok := errors.AsType[*fault.Fault](logErr); ok {
		b.o.Log.Error("nothing is released", "machine", record.Machine, "remote", remote, "code", broken.Code, "reason", broken.Reason())
		return nil, broken
	}
	if logErr != nil {
		return nil, fmt.Errorf("the decision cannot be logged, so nothing is released: %w", logErr)
	}
	b.o.Log.Info("release", "machine", record.Machine, "remote", remote, "result", record.Result, "code", record.Code, "reason", record.Reason)
	if u := record.Unproven; u.Words != "" {
		b.o.Log.Warn("the policy does not prove which code runs", "policy_version", record.PolicyVersion, "unproven", u.Words, "because", strings.Join(u.Because, "; "))
	}
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// examine gives the policy, and the evidence if it is good and names a key to encrypt to.
func (b *Broker) examine(key string, spki []byte, req releaseRequest, record *Record) (*attest.SignedPolicy, *attest.Evidence, error) {
	policy, err := b.policy()
	if err != nil {
		return nil, nil, err
	}
	record.PolicyVersion, record.Unproven = policy.Version, policy.Forced()
	evidence, err := b.appraise(policy, key, spki, req, true)
	if err != nil {
		return nil, nil, err
	}
	id, err := identityOf(evidence)
	if err != nil {
		return nil, nil, err
	}
	record.Identity = &id
	return policy, evidence, record.tellInstance(evidence, &policy.Policy)
}

// give gives the credential to a machine whose evidence is good, if it is the one that was
// admitted. What that changes goes into the record.
func (l *ledger) give(policy *attest.SignedPolicy, evidence *attest.Evidence, machine string, record *Record) (*releaseAnswer, error) {
	if kept := l.head.State.Policy; kept == nil || !kept.Is(policy.ID()) {
		return nil, fault.Errorf(fault.BrokerBusy, "the policy was exchanged while the evidence was appraised; ask again")
	}
	public, err := kem().NewPublicKey(evidence.ReleaseKey)
	if err != nil {
		return nil, fault.Errorf(fault.BrokerKey, "the evidence names no key to which a credential can be encrypted")
	}
	if err := l.mayHave(machine); err != nil {
		return nil, err
	}
	becomes, err := l.admits(machine, *record.Identity, &policy.Policy)
	if refused, ok := errors.AsType[*fault.Fault](err); ok {
		refused.Message += fmt.Sprintf("; if it is the right one, admit it at the broker with holdfast broker admit %s --request %d, and restart it", machine, l.head.Number+1)
	}
	if err != nil {
		return nil, err
	}
	was, known := l.head.State.Machines[machine]
	if !known || was != becomes {
		record.Admission = &becomes
	}
	if !known && rules(&policy.Policy) {
		record.Reason = record.byRule()
	}
	credential, err := l.v.credential(machine)
	if err != nil {
		return nil, err
	}
	defer clear(credential)
	sealed, err := hpke.Seal(public, kdf(), aead(), info(machine, evidence.Nonce), credential)
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
	if !b.nonces.good(b.o.Now(), evidence.Nonce, key) {
		return nil, badNonce()
	}
	own, err := b.o.Vault.endorsements()
	if err != nil {
		return nil, err
	}
	verdict := attest.Verify(evidence, &policy.Policy, attest.Expectation{
		At: b.o.Now(), Nonce: evidence.Nonce, TLSKey: spki, Release: releases, Signed: policy, Endorsements: own, Roots: b.o.Roots})
	if err := policy.Accept(verdict); err != nil {
		return nil, fault.Decoded(cmp.Or(verdict.Against(), string(fault.BrokerEvidence)), err.Error())
	}
	if err := b.nonces.use(b.o.Now(), evidence.Nonce, key); err != nil {
		return nil, err
	}
	return evidence, nil
}
