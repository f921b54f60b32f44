// Package daemon wires the parts of the appliance to one that serves. Both
// binaries use it: holdfast on a real platform, holdfast-dev on a simulated
// one.
package daemon

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/activity"
	"holdfast/appliance/approval"
	"holdfast/appliance/audit/recorder"
	"holdfast/appliance/config"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/keyring"
	"holdfast/appliance/machine/boot"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/appliance/machine/certificate"
	"holdfast/appliance/machine/machinekey"
	"holdfast/appliance/machine/ownership"
	"holdfast/appliance/machine/policies"
	"holdfast/appliance/machine/volume"
	"holdfast/appliance/notice"
	"holdfast/appliance/postgres"
	"holdfast/appliance/sqlite"
	"holdfast/appliance/witness"
	"holdfast/attest"
	"holdfast/attest/tpm/counter"
	"holdfast/cmd/internal/coredump"
	"holdfast/cmd/internal/metrics"
	"holdfast/cmd/internal/systemd"
	"holdfast/cmd/internal/tracing"
	"holdfast/cmd/internal/version"
	"holdfast/hsm"
	"holdfast/web"
	"holdfast/web/console"
	"holdfast/web/operation"
	"holdfast/xks"
	"holdfast/xks/sigv4"
)

// Options are what differs between platforms.
type Options struct {
	Config *config.Config
	Log    *slog.Logger
	// Requests takes the lines about requests of KMS ([config.Log.Requests]); Log if nil.
	Requests *slog.Logger
	// LogDropped, if given, counts the lines that the log has lost.
	LogDropped func() uint64
	// Platform is a simulated machine; the real one if nil.
	Platform Platform
	// Modules gives what starts the module processes of a token; tokens count from 1. It is needed.
	Modules func(number int, token config.Member) hsm.Launcher
	// RenewAfter is how long after the unlock the modules' processes are replaced; a minute if 0.
	RenewAfter time.Duration
	// Changed, if given, is called whenever the boot has come to serving, degraded
	// or locked, or waits for another attempt.
	Changed func(progress.Status, Addresses)
	// Setup, if given, is told the code that admits the first administrator, the file
	// that has it too, and the console's URL, which is empty if it is not known. The
	// code is empty if its hash was given.
	Setup func(code, file, url string)
	// Now is the clock of what people do: sessions, proofs of presence, requests for approval; and
	// the wall clock that irreversible things are held against. time.Now if nil.
	Now func() time.Time
	// Metadata is the URL of the instance metadata service; EC2's if empty. The
	// configuration says whether it is asked.
	Metadata string
}

// Platform is a machine that is none.
type Platform interface {
	// Collector collects its evidence.
	Collector() *attest.Collector
	// Roots are those that its evidence is signed under.
	Roots() *attest.Roots
}

// Addresses are where the daemon listens.
type Addresses struct {
	XKS, Admin net.Addr
	Socket     string
}

// Daemon is an appliance with its listeners.
type Daemon struct {
	o     Options
	store *sqlite.DB
	// machine has the rows of this machine: with the others, or in a fleet in a file of
	// their own. changes is the fleet's log of changes; nil without one.
	machine *sqlite.Machine
	changes *postgres.Log
	// fleet is the place of this node among the others; nil without a fleet.
	fleet     *membership
	appliance *appliance.Appliance
	boot      *boot.Boot
	audit     *recorder.Recorder
	collector *attest.Collector
	// awaited is the context of an unlock that a person has to decide about; nil if there is
	// nothing to decide. The boot's goroutine alone has it.
	awaited context.Context
	// anchor is the anchor of the state in this machine's TPM, from the boot's first step
	// on; nil without a TPM.
	anchor *counter.Anchor
	// broker is an anchor, too; nil if the PIN comes from elsewhere.
	broker *boot.BrokerAnchor
	// clock tells the time that irreversible things rest on.
	clock *witness.Clock
	// machineKey authenticates rows while the appliance is locked; measured is what the
	// TPM is reached by that keeps it.
	machineKey machinekey.Key
	measured   atomic.Pointer[attest.Collector]
	// policies are those of this machine.
	policies *policies.Store
	// policy is the one that the machine was appraised by; nil before.
	noted       atomic.Pointer[boot.Noted]
	users       *identity.Directory
	notices     *notice.Queue
	welcome     *identity.Welcome
	performer   *operation.Performer
	certificate *certificate.Certificate
	xks         *xks.Server
	xksL        net.Listener
	admin       *http.Server
	adminL      net.Listener
	socket      *http.Server
	socketL     net.Listener
	closers     []func()
	// observeHSM has what the HSM does counted, observeEnd the ends of its module's processes.
	observeHSM func(token, operation string) func(error)
	observeEnd func(token string, cause hsm.Cause)
	ends       moduleEnds
	site       *site
	// image is the image's configuration, which is measured; launch is what the boot knows
	// of the launch file that lies over it, nil if the image asks for none.
	image  *config.Config
	launch *boot.Launch
	// owned is the launch file that counts, and what it says.
	whose ownership.Owned
	// ownership takes launch files for the next start.
	ownership ownership.Machine
	// looking is held while somebody looks at the tokens of a launch file.
	looking sync.Mutex
	owned   *boot.OwnedRelease // by the launch file; nil without an owner
	// volume is why the state volume is not open; nil if it is. volumeIdentity is what was
	// measured for it, nil without one.
	volume         *fault.Fault
	volumeIdentity []byte

	// claims is by what this process claims to begin a fleet's installation.
	claim  sync.Once
	claims string
	budget budget // of memory

	mu         sync.Mutex
	hsm        keyring.Tokens // all tokens; nil until they are open
	background sync.WaitGroup
}

// Run boots and serves until ctx ends, then shuts down: it answers the requests
// under way, stores what is in memory, wipes the keys and returns nil. An error
// means that it could not start.
//
// Until the boot has come to serving (package appliance/machine/boot) it serves locked:
// XKS requests get InternalException, administrators see why.
func Run(ctx context.Context, o Options) error {
	if err := coredump.Forbid(); err != nil {
		return err
	}
	budget := thisBudget()
	budget.spareCollections()
	if o.Now == nil {
		o.Now = time.Now
	}
	d := &Daemon{o: o, budget: budget}
	defer d.close()
	if err := d.open(ctx); err != nil {
		return err
	}
	return d.serve(ctx)
}

// closed says whether nobody can be enrolled or sign in, as what they would change
// would not last.
func (d *Daemon) closed() bool { return d.volume != nil }

func (d *Daemon) onClose(f func()) { d.closers = append(d.closers, f) }

func (d *Daemon) close() {
	for i := len(d.closers) - 1; i >= 0; i-- {
		d.closers[i]()
	}
}

// open opens everything but the token.
func (d *Daemon) open(ctx context.Context) error {
	cfg := d.o.Config
	if d.volumeIdentity, d.volume = volume.Closed(cfg.State.Volume, cfg.State.Dir); d.volume != nil {
		d.o.Log.Error("no PIN will be released, and nobody can sign in", "code", d.volume.Codes(), "reason", d.volume.Reason())
	}
	d.findLaunch(ctx)
	cfg = d.o.Config
	if err := firstCertificate(cfg, d.o.Log); err != nil {
		return err
	}
	cert, err := certificate.Load(cfg.XKS.Certificate, cfg.XKS.Key, time.Now, d.o.Log)
	if err != nil {
		return err
	}
	clientCAs, err := readCAs(cfg.XKS.ClientCA)
	if err != nil {
		return fmt.Errorf("xks.client_ca: %w", err)
	}
	d.certificate = cert
	if err := d.openState(ctx, cert); err != nil {
		return err
	}
	w, err := d.newWatchers(ctx, cert)
	if err != nil {
		return err
	}
	d.openXKS(cert, clientCAs, w)
	if err := d.listen(); err != nil {
		return err
	}
	return d.openAdmin(ctx, cert, w)
}

// watchers are told the outcome of each request of KMS.
type watchers struct {
	metrics *metrics.Metrics
	recent  *activity.Recorder
	tracer  *tracing.Tracer // nil if no traces are asked for
}

func (w *watchers) observe(o *appliance.Outcome) {
	w.metrics.Observe(o)
	w.recent.Observe(o)
	if w.tracer != nil {
		w.tracer.Observe(o)
	}
}

func (d *Daemon) newWatchers(ctx context.Context, cert *certificate.Certificate) (*watchers, error) {
	sources := metrics.Sources{Version: version.Version, LogDropped: d.o.LogDropped, Status: d.appliance.Status, Boot: d.boot.Status, Audit: d.audit.Status,
		Approvals: func(ctx context.Context) (map[approval.State]int, error) {
			return d.store.CountApprovals(ctx, d.o.Now())
		},
		NoticesWaiting: func() int { return d.notices.Waiting() },
		KeysInMemory:   d.appliance.KeysInMemory,
		Credentials:    d.appliance.CredentialAges, CertificateExpires: func() time.Time {
			c, err := cert.Get(nil)
			if err != nil {
				return time.Time{}
			}
			return c.Leaf.NotAfter
		}}
	if d.fleet != nil {
		sources.Fleet = d.fleet.FleetStatus
	}
	for _, m := range d.o.Config.HSM.Tokens() {
		sources.Tokens = append(sources.Tokens, cmp.Or(m.TokenLabel, m.TokenSerial))
	}
	w := &watchers{recent: activity.New(nil), metrics: metrics.New(sources)}
	d.observeHSM, d.observeEnd = w.metrics.ObserveHSM, w.metrics.ObserveModuleEnd
	var err error
	if w.tracer, err = tracing.New(ctx, version.Version, d.o.Log); err != nil || w.tracer == nil {
		return w, err
	}
	d.onClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := w.tracer.Close(ctx); err != nil {
			d.o.Log.Warn("the last traces could not be sent", "error", err)
		}
	})
	return w, nil
}

// openXKS wires the front end of KMS.
func (d *Daemon) openXKS(cert *certificate.Certificate, clientCAs *x509.CertPool, w *watchers) {
	cfg := d.o.Config
	services, regions := cfg.XKS.Services, cfg.XKS.Regions
	if s := cfg.AWSXKS; s != nil && s.Enable {
		services = append(services, s.Service)
	}
	api := xks.New(xks.Options{
		KeyStores: d.appliance,
		Log:       d.o.Log, RequestLog: d.o.Requests, LogAll: cfg.Log.Requests == config.RequestsAll,
		SigV4:     sigv4.Verifier{Services: services, Regions: regions},
		Model:     "Holdfast " + version.Version,
		FleetSize: d.live,
		Timeout:   time.Duration(cfg.XKS.RequestTimeout),
		Observe:   w.observe,
	})
	d.xks = xks.NewServer(api, xks.ServerOptions{
		Certificate:    cert.Get,
		ClientCAs:      clientCAs,
		ClientNames:    cfg.XKS.ClientNames,
		MaxConnections: cfg.XKS.MaxConnections,
		Log:            d.o.Log,
	})
}

// openAdmin wires what administrators use: the API, the console and the socket.
func (d *Daemon) openAdmin(ctx context.Context, cert *certificate.Certificate, w *watchers) (err error) {
	cfg := d.o.Config
	d.site = &site{cfg: cfg, certificate: cert, listening: Addresses{XKS: d.xksL.Addr(), Admin: d.adminL.Addr()}}
	closed := ""
	if d.closed() {
		closed = d.volume.Error()
	}
	if d.users, err = d.newDirectory(closed, w.metrics.ObserveSignIn); err != nil {
		return err
	}
	if d.changes != nil {
		d.users.Nodes = d.live
	}
	if d.notices, err = newNotices(cfg.Notify, d.site.consoleURL, w.metrics.ObserveNotice, d.o.Log); err != nil {
		return err
	}
	d.welcome = &identity.Welcome{Directory: d.users, Unlocked: func() bool { return !d.appliance.Locked() }, Tell: func(code string) {
		if d.o.Setup != nil {
			d.o.Setup(code, filepath.Join(cfg.State.Dir, SetupFile), d.site.consoleURL())
		}
	}}
	if !d.closed() && !cfg.Instance.Metadata {
		if err := d.welcome.Say(ctx, d.setupFile); err != nil {
			return err
		}
	}
	o := operation.Options{Domain: d.appliance, Boot: d.boot, Audit: d.audit, Journal: d.machine, Identity: d.users,
		Approvals: approval.Sealed(d.store, d.appliance.Seals()), Settings: d.appliance, Answers: d.store, Seals: d.appliance.Seals(), Activity: w.recent, Site: d.site, Policies: appraisal{d}, Launches: launches{d}, Log: d.o.Log, Recorded: d.appliance.KeepAuditHead, Notices: d.notices, Decided: w.metrics.ObserveApproval, Now: d.o.Now}
	if d.fleet != nil {
		d.fleet.activities.Give(w.recent)
		d.fleet.evidence.Give(d.boot)
		o.Fleet, o.AuditPeers, o.ActivityPeers, o.AttestationPeers, o.VerificationPeers = d.fleet, d.fleet.logs, d.fleet.activities, d.fleet.evidence, d.fleet.checks
	}
	api := web.NewAPI(o)
	d.performer = api.Performer
	if d.fleet != nil {
		d.fleet.checks.Give(api.Performer)
	}
	pages := console.New(console.Options{Performer: api.Performer, Identity: d.users, Boot: d.boot, Version: version.Version, Log: d.o.Log, Now: d.o.Now, Changes: d.store.Changes})
	public := web.Public{API: api, Boot: d.boot, Ready: d.appliance.Ready, Installation: d.appliance.Installation, Metrics: w.metrics.Handler(), Identity: d.users, Console: pages, Trusted: cert.Trusted, Log: d.o.Log}
	if d.changes != nil {
		public.Positions, public.Fleet = d.store, d.answerNodes()
	}
	version1 := &http.Protocols{} // package forget
	version1.SetHTTP1(true)
	d.admin = &http.Server{
		Protocols: version1,
		Handler:   web.NewHandler(public),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: cert.Get},
		// Streams have these lifted.
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute,
		MaxHeaderBytes: console.MaxHeader,
		ErrorLog:       slog.NewLogLogger(d.o.Log.Handler(), slog.LevelDebug),
	}
	d.socket = &http.Server{
		Handler:           api,
		ReadHeaderTimeout: 5 * time.Second,
		ConnContext:       peer,
		ErrorLog:          slog.NewLogLogger(d.o.Log.Handler(), slog.LevelDebug),
	}
	return nil
}

// serve starts the listeners, unlocks, and waits for the end. What works in the
// background, and the token with it, ends after the last request is answered.
func (d *Daemon) serve(ctx context.Context) error {
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	failed := make(chan error, 4)
	var wg sync.WaitGroup
	start := func(name string, f func() error) {
		wg.Go(func() {
			if err := f(); err != nil && !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	start("XKS listener", func() error { return d.xks.Serve(d.xksL) })
	start("admin listener", func() error { return d.admin.ServeTLS(d.adminL, "", "") })
	start("admin socket", func() error { return d.socket.Serve(d.socketL) })
	d.o.Log.Info("listening; locked until the boot has come to serving", "xks", d.xksL.Addr().String(), "admin", d.adminL.Addr().String(), "socket", d.o.Config.Admin.Socket)
	wg.Go(func() { d.boot.Run(background) })
	wg.Go(func() { d.certificate.Follow(background) })
	wg.Go(func() { d.notices.Run(background) })
	wg.Go(func() { d.performer.ForgetAnswers(background) })
	if d.o.Config.Instance.Metadata {
		wg.Go(func() { d.meet(background) })
	}
	if d.fleet != nil {
		wg.Go(func() { d.fleet.logs.Run(background) })
		wg.Go(func() { d.fleet.Run(background) })
	}
	wg.Go(func() { systemd.Watchdog(background, d.o.Log, d.alive) })
	systemd.Notify(d.o.Log, systemd.Ready+"\n"+systemd.Status(statusLine(d.boot.Status())))

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	d.o.Log.Info("shutting down")
	systemd.Notify(d.o.Log, systemd.Stopping)
	grace, done := context.WithTimeout(background, 10*time.Second)
	defer done()
	_ = d.xks.Shutdown(grace)
	_ = d.admin.Shutdown(grace)
	_ = d.socket.Shutdown(grace)
	stop()
	wg.Wait()
	if d.fleet != nil {
		d.fleet.end()
	}
	d.background.Wait()
	d.lock()
	d.audit.Close()
	return err
}
