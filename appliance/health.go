package appliance

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"holdfast/appliance/fault"
)

// HealthStatus is the state of an HSM as GetHealthStatus reports it (spec,
// ekmFleetDetails.healthStatus).
type HealthStatus string

// The health states.
const (
	// HealthActive: the HSM performs cryptographic operations in time.
	HealthActive HealthStatus = "ACTIVE"
	// HealthDegraded: the HSM does not, and all keys still serve: they are in memory, or
	// another HSM has them.
	HealthDegraded HealthStatus = "DEGRADED"
	// HealthUnavailable: keys cannot be served.
	HealthUnavailable HealthStatus = "UNAVAILABLE"
)

// TokenInfo is what a token says about itself (PKCS#11 v2.40, CK_TOKEN_INFO).
type TokenInfo struct {
	Label        string `json:"label" jsonschema:"The label of the HSM's token."`
	Manufacturer string `json:"manufacturer" jsonschema:"The manufacturer of the HSM."`
	Model        string `json:"model" jsonschema:"The model of the HSM."`
	Serial       string `json:"serial" jsonschema:"The serial number of the HSM's token."`
	Firmware     string `json:"firmware" jsonschema:"The firmware version of the HSM."`
	Hardware     string `json:"hardware" jsonschema:"The hardware version of the HSM."`
	// FreeSessions is how many more sessions the token allows; -1 if it sets no
	// limit or does not say.
	FreeSessions int `json:"free_sessions" jsonschema:"How many more sessions the token allows; -1 if it sets no limit or does not say."`
	// Dialect and MaxSessions are how the appliance uses the token.
	Dialect     string `json:"dialect" jsonschema:"The dialect of AES-GCM in which the appliance uses the HSM: hsm.dialect, or that of the member; key-wrap if the HSM wraps keys." example:"standard"`
	MaxSessions int    `json:"max_sessions" jsonschema:"How many sessions the appliance uses in the HSM at most." example:"16"`
	// Process is about the process in which the HSM's PKCS#11 module runs.
	Process ModuleProcess `json:"process" jsonschema:"The process in which the HSM's PKCS#11 module runs."`
}

// ModuleProcess is the process in which a PKCS#11 module runs.
type ModuleProcess struct {
	PID         int    `json:"pid" jsonschema:"Its process ID; 0 while there is none." example:"4711"`
	MemoryBytes int64  `json:"memory_bytes" jsonschema:"How much memory it has, in bytes." example:"41943040"`
	Starts      int    `json:"starts" jsonschema:"How many such processes there have been since the appliance started, this one with them." example:"1"`
	Confined    string `json:"confined" jsonschema:"How it is confined." example:"system calls, no capabilities, no core dump, 1024 MiB of memory; landlock 6: files, TCP, signals; not confined: UDP, IP addresses, Unix sockets"`
	// LastEnd is of the one before that ended otherwise than to be replaced; nil if none has.
	LastEnd *ModuleEnd `json:"last_end,omitempty" jsonschema:"How the last such process ended that was not to be replaced; absent if none has since the appliance started."`
}

// ModuleEnd is how a module process ended.
type ModuleEnd struct {
	Time   time.Time `json:"time" jsonschema:"When it ended, or was ended."`
	Cause  string    `json:"cause" jsonschema:"The kind of end: crashed, exited, killed, stopped or ended (the process), hung (a call in it), token_lost (it answers, and says that the token does not work), or garbled (its answer cannot be used)." example:"crashed"`
	Reason string    `json:"reason" jsonschema:"Why, with the last lines that the module wrote." example:"the module's process has ended: it crashed: signal SIGSEGV (segmentation fault)"`
	Do     string    `json:"what_to_do" jsonschema:"What to do." example:"another process is started by itself; if it comes again, update the vendor's software, or send its vendor this line"`
}

// HSMHealth is what is known of one HSM.
type HSMHealth struct {
	TokenInfo
	Status HealthStatus `json:"status" jsonschema:"The health of the HSM, as GetHealthStatus tells it."`
	// Error says why it is not active; empty if it is.
	Error string `json:"error,omitempty" jsonschema:"Why the HSM is not active; absent if it is."`
	// ProbedAt is when the test operation was done; Took is how long it took.
	ProbedAt time.Time     `json:"probed_at" jsonschema:"When the HSM did its last test operation."`
	Took     time.Duration `json:"took_ns" jsonschema:"How long the test operation took, in nanoseconds."`

	// fails says that operations in the HSM fail, or take longer than KMS waits.
	fails bool
}

const (
	// maxHealthAge is how old a health result may be that KMS gets (spec,
	// GetHealthStatus, KMS considerations: one minute).
	maxHealthAge = time.Minute
	// slowProbe is from where an HSM counts as degraded: operations that wait for
	// it would miss KMS's 250 ms.
	slowProbe = 200 * time.Millisecond
	// probeTimeout bounds a probe that runs in the background.
	probeTimeout = 5 * time.Second
)

// healthMonitor keeps the result of the last probe of each HSM.
type healthMonitor struct {
	now func() time.Time
	// answered is told when a probe began that an HSM has answered.
	answered func(time.Time)

	probing sync.Mutex // held while probing, so that callers share a probe

	mu      sync.Mutex
	hsms    []HSM
	results []HSMHealth
}

func (m *healthMonitor) watch(hsms []HSM) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hsms, m.results = hsms, nil
}

func (m *healthMonitor) watched() []HSM {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hsms
}

// last gives the results of the last probe, however old.
func (m *healthMonitor) last() []HSMHealth {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.results
}

func (m *healthMonitor) fresh() ([]HSMHealth, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.results) == 0 || m.now().Sub(m.results[0].ProbedAt) > maxHealthAge {
		return m.results, false
	}
	return m.results, true
}

// probe asks every HSM.
func (m *healthMonitor) probe(ctx context.Context, log *slog.Logger) []HSMHealth {
	m.mu.Lock()
	hsms, before := m.hsms, m.results
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	results := make([]HSMHealth, len(hsms))
	var wg sync.WaitGroup
	for i, h := range hsms {
		wg.Go(func() {
			begin := m.now()
			r := HSMHealth{Status: HealthActive, ProbedAt: begin}
			if i < len(before) {
				r.TokenInfo = before[i].TokenInfo // what is known of it while it does not answer
			}
			err := h.Probe(ctx)
			r.Took = m.now().Sub(begin)
			if err == nil {
				m.answered(begin)
				var info TokenInfo
				if info, err = h.Info(ctx); err == nil {
					r.TokenInfo = info
				}
			}
			switch {
			case err != nil:
				r.Status, r.Error, r.fails = HealthDegraded, err.Error(), true
				info, _ := h.Info(ctx) // what is known without the token
				if r.Label == "" && r.Serial == "" {
					r.TokenInfo = info // it has never answered
				}
				r.Process.LastEnd = info.Process.LastEnd
			case r.Took > slowProbe:
				r.fails = r.Took > 2*slowProbe // a probe is two operations
				r.Status, r.Error = HealthDegraded, "the test operation took "+r.Took.String()
			}
			if i >= len(before) || before[i].Status != r.Status {
				log.Info("HSM health", "token", r.Label, "serial", r.Serial, "status", r.Status, "took", r.Took, "error", r.Error)
			}
			results[i] = r
		})
	}
	wg.Wait()
	m.mu.Lock()
	m.results = results
	m.mu.Unlock()
	return results
}

// ProbeHSMs has each HSM do its test operation now. fault.Locked while there are
// no HSMs to speak of.
func (s *Service) ProbeHSMs(ctx context.Context) ([]HSMHealth, error) {
	if _, err := s.view(); err != nil {
		return nil, err
	}
	s.health.probing.Lock()
	defer s.health.probing.Unlock()
	return s.health.probe(ctx, s.log), nil
}

// Health gives the state of each HSM, at most a minute old. A result that is
// older is replaced before the method returns, within the time of ctx.
// fault.Locked while there are no HSMs to speak of.
func (s *Service) Health(ctx context.Context) ([]HSMHealth, error) {
	if _, err := s.view(); err != nil {
		return nil, err
	}
	if r, ok := s.health.fresh(); ok {
		return r, nil
	}
	done := make(chan []HSMHealth, 1)
	go func() {
		s.health.probing.Lock()
		defer s.health.probing.Unlock()
		if r, ok := s.health.fresh(); ok {
			done <- r
			return
		}
		done <- s.health.probe(context.WithoutCancel(ctx), s.log)
	}()
	select {
	case r := <-done:
		return r, nil
	case <-ctx.Done():
		return nil, fault.Wrapf(fault.Timeout, ctx.Err(), "the HSMs did not answer the health probe in time")
	}
}

// KeyStoreHealth gives the state of each HSM as KMS is told of it by the key store of that name, in
// at most a second; none while KMS gets no such answer: there is no such key store, it is out of
// service, or this node refuses all requests.
func (s *Service) KeyStoreHealth(ctx context.Context, name string) []HSMHealth {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	hsms, err := s.Health(ctx)
	st := s.standings()
	if err != nil || st.node != nil {
		return nil
	}
	for _, e := range st.view.byID {
		if e.store.Name == name && e.out() == nil {
			return e.health(ctx, hsms)
		}
	}
	return nil
}

// health says what the state of the HSMs is to the key store (spec, GetHealthStatus:
// success gives a strong assurance that a request issued immediately after succeeds).
func (e *Endpoint) health(ctx context.Context, hsms []HSMHealth) []HSMHealth {
	var why string
	switch r := e.blocks(); {
	case r != nil:
		why = r.Says
	case !slices.ContainsFunc(hsms, func(h HSMHealth) bool { return !h.fails }) && e.keysInToken(ctx):
		why = "keys of the key store are in the HSM, which does not do its work in time"
	default:
		return hsms
	}
	hsms = slices.Clone(hsms) // others have them as well
	for i := range hsms {
		hsms[i].Status, hsms[i].Error = HealthUnavailable, why
	}
	return hsms
}

// keysInToken says whether the key store has keys in custody of the HSM. Where that
// cannot be read it may have.
func (e *Endpoint) keysInToken(ctx context.Context) bool {
	has, err := e.service.store.HasKeysInToken(ctx, e.store.ID)
	return has || err != nil
}

// TakesNew says whether this node of a fleet is to get new requests: it serves, is not drained,
// and does not stop soon. A node that is locked has left its fleet, and does not serve.
func (s *Service) TakesNew() bool {
	return s.fleet.Fresh() == nil && !s.fleet.Drained() && !s.fleet.Fading()
}

// Ready says whether requests would be answered: keys can be used, an HSM is there,
// requests can be recorded, and not every key store is blocked or out of service. Note
// says in a few words what is wrong, also while others are served; it names nothing that
// strangers should not know. It takes at most a second.
func (s *Service) Ready(ctx context.Context) (ready bool, note string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	hsms, err := s.Health(ctx) // before the standing, which has what comes of it
	st := s.Standing()
	switch st.State {
	case StandingLocked, StandingHeld:
		return false, "locked"
	case StandingStale:
		return false, string(st.Code)
	case StandingUnrecorded:
		return false, "the audit log takes no records"
	case StandingDrained:
		return false, "drained"
	}
	switch {
	case st.Decides == DecidesEverything:
		return false, "everything is blocked"
	case !st.Serves || st.State == StandingFading:
		return false, st.Says
	case err != nil || !slices.ContainsFunc(hsms, func(h HSMHealth) bool { return h.Status != HealthUnavailable }):
		return false, "no HSM"
	}
	if v := s.live.Load(); v != nil {
		note = v.note()
	}
	return true, note
}
