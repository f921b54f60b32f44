// Package metrics tells Prometheus how the appliance does. Names and units
// follow Prometheus's conventions: base units, _total for counters, times as Unix
// timestamps. No metric has a label whose values a stranger could make up.
package metrics

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"holdfast/appliance"
	"holdfast/appliance/approval"
	"holdfast/appliance/audit"
	"holdfast/appliance/identity"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/attest/appraisal"
	"holdfast/hsm"
)

// Sources are where gauges come from, asked whenever Prometheus asks. All are
// needed.
type Sources struct {
	Version string
	// Status gives the appliance's, Boot the boot's.
	Status func(ctx context.Context) appliance.Status
	Boot   func() progress.Status
	// Audit gives the audit log's; nil before it is open.
	Audit func() *audit.Status
	// Fleet gives what this node knows of its fleet; nil for an appliance on its own.
	Fleet func() appliance.FleetStatus
	// Credentials gives when the active credentials of each key store were made.
	Credentials func() (map[string][]time.Time, error)
	// CertificateExpires is when the server's certificate does.
	CertificateExpires func() time.Time
	// Approvals gives how many requests for approval there are in each state; nil for none.
	Approvals func(ctx context.Context) (map[approval.State]int, error)
	// NoticesWaiting is how many notices wait to be sent; nil if none ever do.
	NoticesWaiting func() int
	// LogDropped counts the lines that the log has lost; nil if none can be.
	LogDropped func() uint64
	// KeysInMemory says how many keys are kept ready for use; nil if that is not known.
	KeysInMemory func() appliance.KeysInMemory
	// Tokens are the HSMs' tokens, by the names of [hsm.Config.Observe].
	Tokens []string
}

// Metrics are the appliance's. Its methods may be called concurrently.
type Metrics struct {
	handler  http.Handler
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	skew     prometheus.Histogram
	hsm      *prometheus.CounterVec
	hsmTook  *prometheus.HistogramVec
	sessions *prometheus.GaugeVec
	ends     *prometheus.CounterVec
	signIns  *prometheus.CounterVec
	asked    *prometheus.CounterVec
	notices  *prometheus.CounterVec
	known    atomic.Pointer[map[ending]counters] // a change makes a new one
}

// The edges of the histograms, in seconds. KMS gives up after 0.25 s (spec,
// Response Timeouts); signatures are refused from 300 s of skew on.
var (
	durationBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1}
	skewBuckets     = []float64{.1, .5, 1, 5, 15, 60, 150, 300}
)

// New makes metrics.
func New(s Sources) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_xks_requests_total",
			Help: "XKS requests answered, by operation, key store, result (ok, refused, failed) and the specification's error name.",
		}, []string{"operation", "key_store", "result", "error"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "holdfast_xks_request_duration_seconds",
			Help:    "How long XKS requests took, from the first byte to the answer. KMS gives up after 0.25 s.",
			Buckets: durationBuckets,
		}, []string{"operation"}),
		skew: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "holdfast_xks_clock_skew_seconds",
			Help:    "By how much the clock of signed requests differed from this machine's, without its sign. Beyond 300 s they are refused.",
			Buckets: skewBuckets,
		}),
		hsm: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_hsm_operations_total",
			Help: "Operations in the HSM, by token, operation and result (ok, refused, unavailable). Its test operations are among them.",
		}, []string{"token", "operation", "result"}),
		hsmTook: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "holdfast_hsm_operation_duration_seconds",
			Help:    "How long operations in the HSM took, without waiting for a session.",
			Buckets: durationBuckets,
		}, []string{"token", "operation"}),
		sessions: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "holdfast_hsm_busy_sessions",
			Help: "Sessions in which the HSM works just now. At hsm.max_sessions, requests wait.",
		}, []string{"token"}),
		ends: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_hsm_process_ends_total",
			Help: "Processes of the HSM's PKCS#11 module that ended, or were ended since they were of no use, by cause. Those that were replaced as planned are not among them.",
		}, []string{"token", "cause"}),
		signIns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_sign_ins_total",
			Help: "Proofs of who somebody is at console and API, by way (each request by an API token is one) and result (ok, refused, throttled, failed).",
		}, []string{"way", "result"}),
		asked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_approvals_total",
			Help: "Requests for approval at this node, by what became of them: asked, approved, rejected, failed.",
		}, []string{"event"}),
		notices: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_notices_total",
			Help: "Notices of requests for approval that this node has sent, by way (email, webhook) and result (sent, given_up).",
		}, []string{"way", "result"}),
	}
	// What has not happened yet is there as 0: rates of it are right from the first on.
	for _, way := range identity.Ways {
		for _, r := range identity.Results {
			m.signIns.WithLabelValues(string(way), string(r))
		}
	}
	for _, event := range approvalEvents {
		m.asked.WithLabelValues(event)
	}
	for _, way := range []string{"email", "webhook"} {
		m.notices.WithLabelValues(way, "sent")
		m.notices.WithLabelValues(way, "given_up")
	}
	for _, token := range s.Tokens {
		for _, cause := range hsm.Causes {
			m.ends.WithLabelValues(token, string(cause))
		}
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(m.requests, m.duration, m.skew, m.hsm, m.hsmTook, m.sessions, m.ends, m.signIns, m.asked, m.notices, &gauges{s},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{Registry: registry})
	return m
}

// Handler answers Prometheus.
func (m *Metrics) Handler() http.Handler { return m.handler }

// Observe counts a request that was answered.
func (m *Metrics) Observe(o *appliance.Outcome) {
	words := o.Words()
	operation := words.Operation
	if operation == "" {
		operation = "unknown"
	}
	result := "ok"
	switch o.Result() {
	case appliance.ResultFailed:
		result = "failed"
	case appliance.ResultRefused, appliance.ResultDenied:
		result = "refused"
	}
	a := m.answered(ending{operation, o.Request.KeyStore, result, words.Error})
	a.requests.Inc()
	a.duration.Observe(o.Took.Seconds())
	if o.Dated {
		m.skew.Observe(o.Skew.Abs().Seconds())
	}
}

// ending is how a request ended: the labels of its counter.
type ending struct{ operation, keyStore, result, err string }

// counters are what a request with some ending is counted in.
type counters struct {
	requests prometheus.Counter
	duration prometheus.Observer
}

// answered gives the counters of requests that ended so. Prometheus looks them up by a
// hash of the labels, under a lock; each request asks, and there are few endings.
func (m *Metrics) answered(e ending) counters {
	for {
		known := m.known.Load()
		if known != nil {
			if c, ok := (*known)[e]; ok {
				return c
			}
		}
		more := map[ending]counters{e: {m.requests.WithLabelValues(e.operation, e.keyStore, e.result, e.err), m.duration.WithLabelValues(e.operation)}}
		if known != nil {
			maps.Copy(more, *known)
		}
		m.known.CompareAndSwap(known, &more)
	}
}

// ObserveHSM counts an operation in the HSM ([hsm.Config.Observe]).
func (m *Metrics) ObserveHSM(token, operation string) func(error) {
	busy, began := m.sessions.WithLabelValues(token), time.Now()
	busy.Inc()
	return func(err error) {
		busy.Dec()
		result := "ok"
		switch {
		case errors.Is(err, hsm.ErrDecrypt), errors.Is(err, hsm.ErrNotFound), errors.Is(err, hsm.ErrExists), errors.Is(err, hsm.ErrAmbiguous):
			result = "refused"
		case err != nil:
			result = "unavailable"
		}
		m.hsm.WithLabelValues(token, operation, result).Inc()
		m.hsmTook.WithLabelValues(token, operation).Observe(time.Since(began).Seconds())
	}
}

// ObserveModuleEnd counts the end of a module process ([hsm.Config.Ended]).
func (m *Metrics) ObserveModuleEnd(token string, cause hsm.Cause) {
	m.ends.WithLabelValues(token, string(cause)).Inc()
}

// ObserveSignIn counts a proof of who somebody is ([identity.Config.Observe]).
func (m *Metrics) ObserveSignIn(way identity.Way, r identity.Result) {
	m.signIns.WithLabelValues(string(way), string(r)).Inc()
}

// approvalEvents are what [Metrics.ObserveApproval] counts, by the state that a request comes to.
var approvalEvents = map[approval.State]string{approval.Pending: "asked", approval.Approved: "approved", approval.Done: "approved", approval.Rejected: "rejected", approval.Failed: "failed"}

// ObserveApproval counts a request for approval by the state that it has come to.
func (m *Metrics) ObserveApproval(s approval.State) {
	if event := approvalEvents[s]; event != "" {
		m.asked.WithLabelValues(event).Inc()
	}
}

// ObserveNotice counts a notice that was sent, or given up ([notice.Config.Observe]).
func (m *Metrics) ObserveNotice(way string, sent bool) {
	result := "given_up"
	if sent {
		result = "sent"
	}
	m.notices.WithLabelValues(way, result).Inc()
}

// gauges asks the sources.
type gauges struct{ s Sources }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("holdfast_"+name, help, labels, nil)
}

var (
	buildInfo    = describe("build_info", "1, with the version of the program.", "version")
	bootState    = describe("boot_state", "1 for the state that the boot is in, 0 for the others.", "state")
	bootSeconds  = describe("boot_step_duration_seconds", "How long each state of this boot took.", "state")
	leaseSeconds = describe("lease_remaining_seconds", "How long keys stay in memory if no HSM answers from now on; 0 while locked.")
	keyStores    = describe("key_stores", "Key stores that are served.")
	keysReady    = describe("keys_in_memory", "External keys that are in memory, ready for use.")
	keysMost     = describe("keys_in_memory_most", "How many external keys are kept in memory at most.")
	keysEvicted  = describe("keys_evicted_total", "External keys that had to leave the memory for others to come. Each is read from the database again when it is used next.")
	hsmActive    = describe("hsm_active", "1 while the HSM performs its test operation in time.", "token", "serial")
	hsmProbe     = describe("hsm_probe_duration_seconds", "How long the last test operation in the HSM took.", "token", "serial")
	hsmFree      = describe("hsm_free_sessions", "How many more sessions the HSM allows; not there if it sets no limit or does not say.", "token", "serial")
	hsmStarts    = describe("hsm_process_starts", "How many processes of the HSM's PKCS#11 module there have been since the start. Each after the first stands for one that ended, or was ended.", "token", "serial")
	hsmMemory    = describe("hsm_process_memory_bytes", "How much memory the process of the HSM's PKCS#11 module has.", "token", "serial")
	hsmProbed    = describe("hsm_probe_timestamp_seconds", "When the last test operation in the HSM began.", "token", "serial")
	attested     = describe("attestation_timestamp_seconds", "When the appliance's own evidence was last appraised.")
	attestedOK   = describe("attestation_success", "1 if the appliance may serve by its last appraisal: it passed, or a person has forced its policy and nothing else was missing.")
	attestedAs   = describe("attestation_result", "1 for the result of the last appraisal, 0 for the others. Under a policy that is forced it is incomplete.", "result")
	keyExpires   = describe("attestation_key_expiry_timestamp_seconds", "When the certificate of the processor's key expires.")
	certExpires  = describe("certificate_expiry_timestamp_seconds", "When the server's certificate expires.")
	clockAhead   = describe("clock_ahead_seconds", "By how much the wall clock is ahead of the time that has passed; keys that are due and audit records past their age wait for it.")
	auditSize    = describe("audit_records_total", "Records in the audit log.")
	auditLag     = describe("audit_unsigned_records", "Records of the audit log that no signed checkpoint covers yet.")
	auditLagTime = describe("audit_unsigned_seconds", "For how long there have been such records.")
	auditFree    = describe("audit_free_bytes", "What the disk of the audit log has left. Without space, requests are refused.")
	auditWorks   = describe("audit_writable", "1 while records can be written; otherwise requests are refused.")
	auditWrites  = describe("audit_writes_total", "Writes of records to the disk of the audit log, several records at a time, since the log was opened.")
	auditStalls  = describe("audit_stalls_total", "Those writes that took longer than 100 ms. Requests that wait longer than the request timeout are refused.")
	auditSlowest = describe("audit_slowest_write_seconds", "The longest that a record has waited for the disk since the log was opened.")
	peerSigned   = describe("audit_peer_countersigned_timestamp_seconds", "When this node countersigned a head of another node's audit log last; 0 before the first.", "node")
	peersRefused = describe("audit_peers_refused", "Other nodes whose newest head of the audit log is not consistent with the one on record, or not signed.")
	fleetChange  = describe("fleet_change_number", "In a fleet: the number of the last change of the log that this node has taken over.")
	fleetFollows = describe("fleet_database_followed", "In a fleet: 1 while the log of changes in the database can be followed.")
	fleetServes  = describe("fleet_node_serves", "In a fleet: 1 while this node knows that it lacks no change; otherwise it refuses requests.")
	fleetNodes   = describe("fleet_nodes", "In a fleet: nodes that are in it.")
	fleetHeard   = describe("fleet_node_heard", "In a fleet: 1 while the other node answers this one.", "node")
	fleetBehind  = describe("fleet_node_behind_changes", "In a fleet: how many changes the other node lacks of those that this one has.", "node")
	requests     = describe("approvals", "Requests for approval that are kept, by state; in a fleet, of all nodes. Those that are pending or approved wait for somebody.", "state")
	noticesWait  = describe("notices_waiting", "Notices of requests for approval that wait to be sent.")
	logDropped   = describe("log_lines_dropped_total", "Lines of the log that were dropped, as its reader was too slow.")
	credentials  = describe("credentials", "Active SigV4 credentials.", "key_store")
	oldest       = describe("credential_oldest_created_timestamp_seconds", "When the oldest active SigV4 credential was made.", "key_store")
)

// states are all that a boot may be in.
var states = []progress.State{progress.Probe, progress.Measure, progress.Collect, progress.Appraise, progress.Release, progress.Unlock, progress.Serving, progress.Degraded, progress.Locked}

// Describe implements [prometheus.Collector].
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{buildInfo, bootState, bootSeconds, leaseSeconds, keyStores, keysReady, keysMost, keysEvicted, hsmActive, hsmProbe, hsmFree, hsmStarts, hsmMemory, hsmProbed,
		attested, attestedOK, attestedAs, keyExpires, certExpires, clockAhead, auditSize, auditLag, auditLagTime, auditFree, auditWorks, auditWrites, auditStalls, auditSlowest, peerSigned, peersRefused, fleetChange, fleetFollows, fleetServes, fleetNodes, fleetHeard, fleetBehind, requests, noticesWait, logDropped, credentials, oldest} {
		ch <- d
	}
}

// askTime bounds how long the sources are asked.
const askTime = 2 * time.Second

// Collect implements [prometheus.Collector].
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	set := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	set(buildInfo, 1, g.s.Version)
	if expires := g.s.CertificateExpires(); !expires.IsZero() {
		set(certExpires, seconds(expires))
	}
	if g.s.LogDropped != nil {
		ch <- prometheus.MustNewConstMetric(logDropped, prometheus.CounterValue, float64(g.s.LogDropped()))
	}
	collectBoot(set, g.s.Boot())
	status := g.s.Status(ctx)
	collectStatus(set, status)
	g.collectFleet(set, status.Replication)
	if s := g.s.Audit(); s != nil {
		ch <- prometheus.MustNewConstMetric(auditSize, prometheus.CounterValue, float64(s.Size))
		set(auditLag, float64(s.Lag))
		set(auditLagTime, s.LagTime.Seconds())
		set(auditFree, float64(s.Free))
		ch <- prometheus.MustNewConstMetric(auditWrites, prometheus.CounterValue, float64(s.Writes))
		ch <- prometheus.MustNewConstMetric(auditStalls, prometheus.CounterValue, float64(s.Stalls))
		set(auditSlowest, s.Slowest.Seconds())
		set(auditWorks, flag(s.Broken == "" && s.Level != audit.LevelFull))
		refused := 0
		for _, p := range s.Peers {
			signed := 0.
			if !p.At.IsZero() {
				signed = seconds(p.At)
			}
			set(peerSigned, signed, p.LogID)
			if p.Refused != "" {
				refused++
			}
		}
		set(peersRefused, float64(refused))
	}
	if g.s.KeysInMemory != nil {
		n := g.s.KeysInMemory()
		set(keysReady, float64(n.Now))
		set(keysMost, float64(n.Most))
		ch <- prometheus.MustNewConstMetric(keysEvicted, prometheus.CounterValue, float64(n.Evicted))
	}
	if g.s.NoticesWaiting != nil {
		set(noticesWait, float64(g.s.NoticesWaiting()))
	}
	if g.s.Approvals != nil {
		if all, err := g.s.Approvals(ctx); err == nil {
			for _, s := range approval.States {
				set(requests, float64(all[s]), string(s))
			}
		}
	}
	made, err := g.s.Credentials()
	if err != nil {
		return // while it is locked
	}
	for store, times := range made {
		set(credentials, float64(len(times)), store)
		first := time.Time{}
		for _, t := range times {
			if first.IsZero() || t.Before(first) {
				first = t
			}
		}
		if !first.IsZero() {
			set(oldest, seconds(first), store)
		}
	}
}

func (g *gauges) collectFleet(set setter, r *appliance.ReplicationState) {
	if r == nil || g.s.Fleet == nil {
		return
	}
	set(fleetChange, float64(r.Position.Number))
	set(fleetFollows, flag(r.Failed == ""))
	set(fleetServes, flag(r.Stale == ""))
	f := g.s.Fleet()
	set(fleetNodes, float64(len(f.Nodes)))
	for _, n := range f.Nodes {
		if n.ID != f.Node {
			set(fleetHeard, flag(n.Heard), n.ID)
			set(fleetBehind, float64(n.Behind), n.ID)
		}
	}
}

type setter func(d *prometheus.Desc, value float64, labels ...string)

func collectBoot(set setter, b progress.Status) {
	for _, s := range states {
		set(bootState, flag(b.State == s), string(s))
	}
	took := map[string]time.Duration{}
	for _, step := range b.Steps {
		if step.Took != 0 {
			took[step.State] = step.Took
		}
	}
	for state, t := range took {
		set(bootSeconds, t.Seconds(), state)
	}
	if a := b.Attestation; a != nil {
		set(attested, seconds(a.Time))
		set(attestedOK, flag(a.Accepted))
		for _, r := range []appraisal.Result{appraisal.Pass, appraisal.Incomplete, appraisal.Fail} {
			set(attestedAs, flag(a.Result == r), string(r))
		}
		if !a.KeyExpires.IsZero() {
			set(keyExpires, seconds(a.KeyExpires))
		}
	}
}

func collectStatus(set setter, s appliance.Status) {
	set(leaseSeconds, float64(s.LeaseSeconds))
	set(keyStores, float64(s.KeyStores))
	set(clockAhead, float64(s.Clock.BehindSeconds))
	seen := map[[2]string]bool{}
	for _, h := range s.HSMs {
		if name := [2]string{h.Label, h.Serial}; seen[name] {
			continue // one that is not known yet has no name
		} else {
			seen[name] = true
		}
		set(hsmActive, flag(h.Status == appliance.HealthActive), h.Label, h.Serial)
		set(hsmProbe, h.Took.Seconds(), h.Label, h.Serial)
		set(hsmStarts, float64(h.Process.Starts), h.Label, h.Serial)
		set(hsmMemory, float64(h.Process.MemoryBytes), h.Label, h.Serial)
		set(hsmProbed, seconds(h.ProbedAt), h.Label, h.Serial)
		if h.FreeSessions >= 0 && h.Label != "" {
			set(hsmFree, float64(h.FreeSessions), h.Label, h.Serial)
		}
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
