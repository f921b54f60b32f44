package conformance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Target is the proxy to check, and what the check may use there.
type Target struct {
	// URL is https://host[:port][/prefix], with or without /kms/xks/v1 at the end.
	URL string
	// AccessKeyID and SecretAccessKey are the SigV4 credential.
	AccessKeyID, SecretAccessKey string
	// Region is the Region KMS would call from. Default us-east-1.
	Region string

	// KeyID is an enabled external key for both ENCRYPT and DECRYPT.
	KeyID string
	// Further keys are optional. What needs one that is not named is not run.
	EncryptOnlyKeyID, DecryptOnlyKeyID, NoUsageKeyID, DisabledKeyID string

	// Principal is sent as awsPrincipalArn. Default an invented user's ARN.
	Principal string
	// DeniedPrincipal is optional: one that the proxy's authorization refuses.
	DeniedPrincipal string

	// RootCAs are trusted for the proxy's certificate. Default the system's.
	RootCAs *x509.CertPool
	// ClientCert is presented if the proxy asks for one.
	ClientCert *tls.Certificate
	// Timeout bounds one request. It is longer than KMS's 250 ms, so that a slow
	// answer is told from none. Default 5 s.
	Timeout time.Duration
	// Load is the load to apply at the end; none if Rate is 0.
	Load LoadPlan
}

// LoadPlan is a load of Encrypt and Decrypt requests in turn.
type LoadPlan struct {
	Rate        int           // requests per second
	Duration    time.Duration // default 5 s
	Connections int           // default 32
}

// Outcome is how a check ended.
type Outcome string

const (
	Pass   Outcome = "pass"
	Fail   Outcome = "fail"
	Warn   Outcome = "warn"    // permitted, but worth a look
	NotRun Outcome = "not_run" // Detail says why
)

// Result is what one check found.
type Result struct {
	// ID names the check and stays the same from version to version.
	ID string `json:"id"`
	// Rule is what is demanded, in one sentence, and Source who demands it.
	Rule   string `json:"rule"`
	Source string `json:"source"`
	// Outcome and Detail are what was found.
	Outcome  Outcome       `json:"outcome"`
	Detail   string        `json:"detail"`
	Duration time.Duration `json:"duration_ns"`
}

// check is one rule, and the way to see whether a proxy keeps it.
type check struct {
	id, rule, source string
	// needs is what the target must name for it, if anything.
	needs need
	// slow checks wait much and ask little: they run beside the others.
	slow bool
	run  func(context.Context, *session) verdict
}

// need is an optional field of the target that a check cannot do without.
type need struct {
	what  string
	value func(*Target) string
}

// verdict is what a check says.
type verdict struct {
	outcome Outcome
	detail  string
}

func pass(format string, a ...any) verdict   { return verdict{Pass, fmt.Sprintf(format, a...)} }
func fail(format string, a ...any) verdict   { return verdict{Fail, fmt.Sprintf(format, a...)} }
func warn(format string, a ...any) verdict   { return verdict{Warn, fmt.Sprintf(format, a...)} }
func notRun(format string, a ...any) verdict { return verdict{NotRun, fmt.Sprintf(format, a...)} }

// checks are all there are, in the order in which they are reported.
func checks() []check {
	var all []check
	for _, theme := range [][]check{
		tlsChecks, httpChecks, signatureChecks(), uriChecks, shapeChecks, cryptoChecks(),
		limitChecks, validationChecks(), keyChecks, errorChecks, loadChecks(),
	} {
		all = append(all, theme...)
	}
	return all
}

// limits are how far checks go that have to stop somewhere.
type limits struct {
	slow     time.Duration // how long a slow request may be kept open
	interval time.Duration // between the bytes of a slow request
	flood    int           // bytes a proxy may take before it must have said no
	patience time.Duration // for an answer after the flood
	samples  int           // calls per operation to measure latency
}

var defaultLimits = limits{slow: 35 * time.Second, interval: 200 * time.Millisecond,
	flood: 32 << 20, patience: 3 * time.Second, samples: 200}

// Run checks the target. It calls progress, if given, with each result as it
// comes, never twice at a time. The error is not nil if the check could not be
// carried out: a target that makes no sense, no connection, or ctx ended.
func Run(ctx context.Context, t Target, progress func(Result)) (*Report, error) {
	return run(ctx, t, defaultLimits, checks(), progress)
}

func run(ctx context.Context, t Target, l limits, list []check, progress func(Result)) (*Report, error) {
	s, err := newSession(t, l)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if err := s.connect(ctx); err != nil {
		return nil, err
	}
	// A proxy that refuses honest requests refuses forged ones, too, which
	// would prove nothing.
	first := s.ask(ctx, getKeyMetadata, s.target.KeyID, s.request(getKeyMetadata))
	honest := first.status != 0 && first.status != 401

	begin := time.Now()
	results := make([]Result, len(list))
	var reporting sync.Mutex
	try := func(i int) {
		c := &list[i]
		started := time.Now()
		v := s.try(ctx, c, honest)
		results[i] = Result{c.id, c.rule, c.source, v.outcome, v.detail, time.Since(started)}
		if progress != nil {
			reporting.Lock()
			defer reporting.Unlock()
			progress(results[i])
		}
	}
	var beside sync.WaitGroup
	for i := range list {
		if list[i].slow {
			beside.Go(func() { try(i) })
		}
	}
	for i := range list {
		if !list[i].slow && ctx.Err() == nil {
			try(i)
		}
	}
	beside.Wait()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("the check was interrupted: %w", context.Cause(ctx))
	}
	return &Report{Target: s.url(), Started: begin.UTC(), Duration: time.Since(begin),
		Summary: summarize(results), Results: results, Latency: s.latency, Load: s.load}, nil
}

// try runs one check, unless it cannot be run.
func (s *session) try(ctx context.Context, c *check, honest bool) verdict {
	theme, _, _ := strings.Cut(c.id, "/")
	switch {
	case c.needs.value != nil && c.needs.value(&s.target) == "":
		return notRun("%s was not named", c.needs.what)
	case !honest && theme != "tls" && theme != "http" && c.id != validSignature:
		return notRun("the proxy does not take an honest request, see %s", validSignature)
	}
	return c.run(ctx, s.during(c.id))
}

// Errors that a caller may want to tell apart.
var (
	// ErrTarget: the target makes no sense.
	ErrTarget = errors.New("the target cannot be checked")
	// ErrConnect: no TLS connection to the proxy.
	ErrConnect = errors.New("cannot connect to the proxy")
)
