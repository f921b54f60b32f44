// Package config reads the appliance's configuration: one TOML file, strict in
// that an unknown key is an error. It holds nothing that cannot be public, the
// section [aws_xks_config] apart; a file that holds a secret must be readable
// by its owner alone.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"holdfast/appliance"
	"holdfast/appliance/postgres/address"
	"holdfast/attest/privatefile"
	"holdfast/attest/release"
	"holdfast/hsm/dialect"
)

// Config is the whole configuration. The comments name the TOML keys' meaning;
// a zero value means the default.
type Config struct {
	State       State       `toml:"state"`
	HSM         HSM         `toml:"hsm"`
	Attestation Attestation `toml:"attestation"`
	Release     Release     `toml:"release"`
	XKS         XKS         `toml:"xks"`
	Admin       Admin       `toml:"admin"`
	Keys        Keys        `toml:"keys"`
	Audit       Audit       `toml:"audit"`
	Log         Log         `toml:"log"`
	Instance    Instance    `toml:"instance"`
	Fleet       Fleet       `toml:"fleet"`
	Notify      Notify      `toml:"notify"`
	Launch      Launch      `toml:"launch"`
	// AWSXKS is the section of the seed, "xksv2": it bootstraps one key store.
	AWSXKS *AWSXKS `toml:"aws_xks_config,omitempty"`

	// given are the options that stand in the file, by their dotted keys; launched are
	// those of them that a launch file has set.
	given, launched map[string]bool
}

// State says where the database is.
type State struct {
	// Dir is the folder; default /var/lib/holdfast.
	Dir string `toml:"dir" default:"/var/lib/holdfast"`
	// Volume is the file in which the image says whether the volume of Dir could be
	// opened (package appliance/machine/volume); none if empty. While it could not, no PIN
	// is released and nobody signs in.
	Volume string `toml:"volume" default:"none"`
	// Database is the PostgreSQL database by which the nodes of a fleet share the state,
	// postgres://USER@HOST:PORT/NAME without a password (package
	// appliance/postgres/address). If it is empty, this machine serves alone.
	Database string `toml:"database" default:"none: this machine serves alone"`
	// DatabasePasswordFile has the user's password. Only its owner may be able to read it.
	DatabasePasswordFile string `toml:"database_password_file"`
	// DatabaseCA is a PEM file of the authorities that may sign the server's certificate;
	// those of the system by default.
	DatabaseCA string `toml:"database_ca" default:"those of the system"`
	// DatabaseCertificate and DatabaseKey are PEM files of a client certificate.
	DatabaseCertificate string `toml:"database_certificate"`
	DatabaseKey         string `toml:"database_key"`
	// DatabaseAsynchronous accepts a server that confirms commits before they are on its
	// disk, or on its synchronous replica's. Changes that were answered can then be lost.
	DatabaseAsynchronous bool `toml:"database_asynchronous"`
}

// Fleet is how this node stands to the others with the same state.database.
type Fleet struct {
	// Grace is how long a node serves without proof that it lacks no change, so that an
	// administrator's change is in effect in all nodes a little later at the latest;
	// default 60s. It has to be the same on all nodes.
	Grace Duration `toml:"grace" default:"60s"`
	// Address is where other nodes call the administrators' listener of this one,
	// host:port; by default this machine's first address and the port of admin.address.
	Address string `toml:"address" default:"this machine's first address, and the port of admin.address"`
}

// DefaultFleetGrace is the Grace of a fleet.
const DefaultFleetGrace = Duration(60 * time.Second)

// Instance says whether this is an instance of EC2.
type Instance struct {
	// Metadata has the instance metadata service asked who this instance is, and for
	// user data with the hash of a setup code. Nothing that is proven depends on it.
	Metadata bool `toml:"metadata" default:"false"`
}

// Launch says where the launch file comes from, in which the owner of a machine says
// what the image leaves open (package appliance/launch).
type Launch struct {
	// Required locks the appliance as long as it has no launch file. The other settings
	// are for that.
	Required bool `toml:"required" default:"false"`
	// Dir is the folder in which the machine keeps its launch file. It lies outside of the
	// encrypted state volume: the file authenticates itself.
	Dir string `toml:"dir"`
	// Disk is a disk or partition with a launch document at its beginning, for a machine
	// that has no launch file yet.
	Disk string `toml:"disk" default:"none"`
	// Modules is the folder of the image that has the PKCS#11 modules that a launch file
	// may name.
	Modules string `toml:"modules"`
}

// HSM selects the token.
type HSM struct {
	// Module is the path of the vendor's PKCS#11 library.
	Module string `toml:"module"`
	// TokenLabel or TokenSerial selects the token; exactly one of them.
	TokenLabel  string `toml:"token_label"`
	TokenSerial string `toml:"token_serial"`
	// MasterKeyLabel is the label of the master key; default holdfast-master.
	MasterKeyLabel string `toml:"master_key_label" default:"holdfast-master"`
	// MaxSessions bounds the operations in the token at once; default 16.
	MaxSessions int `toml:"max_sessions" default:"16"`
	// Lease is how long keys stay in memory while the HSM does not answer;
	// default 15m, 1s to 24h.
	Lease Duration `toml:"lease" default:"15m"`
	// Dialect is how the token wants the IV of AES-GCM: a name of package dialect; default
	// standard.
	Dialect string `toml:"dialect" default:"standard"`
	// NoInstallationObject is for tokens that take no data objects (CKO_DATA). Then no
	// copy of an installation is the owner, and nothing in the HSM is ever destroyed.
	NoInstallationObject bool `toml:"no_installation_object" default:"false"`
	// Process is about the process in which the module runs.
	Process Process `toml:"process"`
	// Members are more tokens with the same master key and PIN, in the order in
	// which they are asked when the first is away.
	Members []Member `toml:"members"`
}

// Process says what the process of a PKCS#11 module may do: besides the system's libraries and
// settings, nothing that is not named.
type Process struct {
	// Read has files and folders that it may read, besides the module's folder; Write those that
	// it may also change, and Unix sockets to which it may connect.
	Read  []string `toml:"read"`
	Write []string `toml:"write"`
	// Ports are the TCP ports to which it may connect; all if empty.
	Ports []int `toml:"ports"`
	// Environment names variables that it gets, besides those that vendors document.
	Environment []string `toml:"environment"`
	// MemoryMiB bounds its memory, in MiB; default 1024, at least 128.
	MemoryMiB int `toml:"memory_mib" default:"1024"`
	// Landlock says that the module does not run on a kernel without landlock.
	Landlock bool `toml:"require_landlock" default:"false"`
	// Unit says that the process is a unit of systemd, with a user and a filter of addresses of its own, as on
	// the image. If false, it is a child of this program.
	Unit bool `toml:"unit" default:"false"`
	// Addresses are the IP addresses and networks (10.0.4.7, 10.0.4.0/24) with which a unit may exchange
	// packets, those of the HSM; none if the list is empty. A child's addresses cannot be confined.
	Addresses []string `toml:"addresses"`
}

// Networks are the addresses of a configuration that was checked.
func (p Process) Networks() (networks []netip.Prefix) {
	for _, text := range p.Addresses {
		if n, err := network(text); err == nil {
			networks = append(networks, n)
		}
	}
	return networks
}

func network(text string) (netip.Prefix, error) {
	a, err := netip.ParseAddr(text)
	if err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	n, err := netip.ParsePrefix(text)
	if err == nil && n != n.Masked() {
		err = fmt.Errorf("the network of it is %s", n.Masked())
	}
	return n, err
}

// or gives what is set, and of what is not set that of another.
func (p Process) or(other Process) Process {
	mine, others := reflect.ValueOf(&p).Elem(), reflect.ValueOf(other)
	for i := range mine.NumField() {
		if mine.Field(i).IsZero() {
			mine.Field(i).Set(others.Field(i))
		}
	}
	return p
}

// Member is one more token.
type Member struct {
	// Module is as in [HSM]; the same if empty.
	Module      string `toml:"module"`
	TokenLabel  string `toml:"token_label"`
	TokenSerial string `toml:"token_serial"`
	// MaxSessions and Dialect are as in [HSM], for a token of another model or firmware; the
	// same if they are not set.
	MaxSessions int    `toml:"max_sessions" default:"that of hsm.max_sessions"`
	Dialect     string `toml:"dialect" default:"that of hsm.dialect"`
	// Process is as in [HSM]. What is not set is as there.
	Process Process `toml:"process"`
}

// Tokens are all that are named, the first one first, each with all its settings.
func (h HSM) Tokens() []Member {
	all := []Member{{Module: h.Module, TokenLabel: h.TokenLabel, TokenSerial: h.TokenSerial, MaxSessions: h.MaxSessions, Dialect: h.Dialect, Process: h.Process}}
	for _, m := range h.Members {
		m.Module = cmp.Or(m.Module, h.Module)
		m.MaxSessions = cmp.Or(m.MaxSessions, h.MaxSessions)
		m.Dialect = cmp.Or(m.Dialect, h.Dialect)
		m.Process = m.Process.or(h.Process)
		all = append(all, m)
	}
	return all
}

// Attestation says how the machine proves what it is, and to what.
type Attestation struct {
	// Policy is the file of the signed appraisal policy, PolicyKey that of the
	// public key (PEM, Ed25519) that signs it.
	Policy    string `toml:"policy"`
	PolicyKey string `toml:"policy_key"`
	// TPM is the device; default /dev/tpmrm0. The Unix socket of an emulator will do.
	TPM string `toml:"tpm" default:"/dev/tpmrm0"`
	// EventLog is the file of the firmware's event log; default
	// /sys/kernel/security/tpm0/binary_bios_measurements.
	EventLog string `toml:"event_log" default:"/sys/kernel/security/tpm0/binary_bios_measurements"`
	// CRL is a file with AMD's list of revocations (DER), by which the appliance appraises
	// itself; it goes with the evidence as well. Its name is measured, not its content.
	CRL string `toml:"crl"`
	// TCB is the TCB recovery file, signed by policy_key: it raises the policy's floors
	// for firmware that is known to be broken. Its name is measured, not its content.
	TCB string `toml:"tcb"`
	// Every is how often evidence is renewed; default 1h, 1m to 24h.
	Every Duration `toml:"every" default:"1h"`
	// Lease is how long keys serve when evidence cannot be renewed; default 24h,
	// 1h to 168h.
	Lease Duration `toml:"lease" default:"24h"`
}

// The ways in which the PIN is released.
const (
	Sealed = "sealed"
	Broker = "broker"
)

// Release says who releases the HSM's PIN to this machine.
type Release struct {
	// Method is sealed (default: the machine's own TPM) or broker.
	Method string `toml:"method" default:"sealed"`
	// Authorizations is the file of the signed PCR policies, SealKey that of the
	// public key (PEM, P-256) that signs them. For sealed.
	Authorizations string `toml:"authorizations"`
	SealKey        string `toml:"seal_key"`
	// SealedPIN is the file of the PIN that the TPM has sealed; default pin.sealed in
	// state.dir.
	SealedPIN string `toml:"sealed_pin" default:"pin.sealed in state.dir"`
	// BrokerURL is https://HOST:PORT, BrokerPin the pin of its key, Machine the name
	// of this machine there. For broker.
	BrokerURL string `toml:"broker_url"`
	BrokerPin string `toml:"broker_pin"`
	Machine   string `toml:"machine"`
}

// XKS is the endpoint that AWS KMS calls.
type XKS struct {
	// Address to listen on; default :8443.
	Address string `toml:"address" default:":8443"`
	// Certificate and Key are PEM files; they are read again when they change.
	Certificate string `toml:"certificate"`
	Key         string `toml:"key"`
	// ClientCA, a PEM file, demands client certificates (mTLS) with one of the
	// common names ClientNames of each XKS call; /healthz and /readyz need none. AWS has
	// deprecated mTLS for XKS.
	ClientCA    string   `toml:"client_ca"`
	ClientNames []string `toml:"client_names"`
	// Regions, if any, are the only ones from which KMS may call.
	Regions []string `toml:"regions" default:"all"`
	// Services are SigV4 service names accepted besides kms-xks-proxy.
	Services []string `toml:"services"`
	// MaxConnections bounds the open connections; default 4096.
	MaxConnections int `toml:"max_connections" default:"4096"`
	// RequestTimeout bounds how long a request waits for the HSM; default 220ms.
	RequestTimeout Duration `toml:"request_timeout" default:"220ms"`
	// FleetSize is how many appliances serve the same key stores; default 1.
	FleetSize int `toml:"fleet_size" default:"1"`
	// URL is what KMS calls, https://NAME, for people to copy (XksProxyUriEndpoint);
	// by default the certificate's first DNS name that KMS takes.
	URL string `toml:"url" default:"the certificate's first DNS name that AWS KMS takes"`
	// Development says that AWS KMS cannot reach this site, so that URL may be any
	// https://HOST:PORT. The endpoint is shown with that word.
	Development bool `toml:"development"`
}

// Admin is the administrators' side.
type Admin struct {
	// Socket is the Unix socket of the command line; default /run/holdfast/admin.sock.
	Socket string `toml:"socket" default:"/run/holdfast/admin.sock"`
	// Address of the administrators' HTTPS listener; default :9443.
	Address string `toml:"address" default:":9443"`
	// URL is by what browsers open the console, https://HOST:PORT; passkeys are bound
	// to its host. By default the certificate's first DNS name, or IP address, with the port.
	URL string `toml:"url" default:"the certificate's first DNS name, or IP address, with the port of admin.address"`
	// Idle and Session bound how long somebody is signed in: without doing anything,
	// default 15m, 1m to 24h, and at all, default 12h, 5m to 168h.
	Idle    Duration `toml:"idle" default:"15m"`
	Session Duration `toml:"session" default:"12h"`
	// SetupCode is a file with the SHA-256 of the setup code for the first
	// administrator, in the form of user data (package appliance/machine/instance). Without
	// a usable one a code is made and printed.
	SetupCode string `toml:"setup_code"`
	OIDC      OIDC   `toml:"oidc"`
}

// OIDC names an OpenID provider by which administrators may sign in.
type OIDC struct {
	Issuer   string `toml:"issuer"`
	ClientID string `toml:"client_id"`
	// ClientSecretFile has the secret, if the provider wants one besides PKCE. Only
	// its owner may be able to read it.
	ClientSecretFile string `toml:"client_secret_file"`
	// Groups gives roles by groups of the provider: a group's name, and viewer, auditor,
	// key-administrator or administrator. With it a user who signs in by the provider has
	// the highest role that the groups of that moment give, and none of them means refusal.
	Groups map[string]string `toml:"groups,omitempty"`
	// GroupsClaim is the claim of the ID token that has the groups, a list of strings.
	GroupsClaim string `toml:"groups_claim" default:"groups"`
	// Scopes are asked for besides openid and email; some providers want "groups".
	Scopes []string `toml:"scopes"`
}

// Notify says how people hear of requests for approval, beside the console (package
// appliance/notice). Nobody does by default.
type Notify struct {
	// To are e-mail addresses that hear of each request, beside those of the users who may
	// approve it.
	To      []string `toml:"to" default:"the users who may approve"`
	SMTP    SMTP     `toml:"smtp"`
	Webhook Webhook  `toml:"webhook"`
}

// SMTP is a mail server.
type SMTP struct {
	Host string `toml:"host"`
	// Port is 587 by default, or 465 for TLS.
	Port int `toml:"port" default:"587; 465 where security is tls"`
	// Security is starttls, which is demanded, or tls from the first byte.
	Security string `toml:"security" default:"starttls"`
	// User and PasswordFile are for a server that wants them. Only its owner may be able to
	// read the file.
	User         string `toml:"user"`
	PasswordFile string `toml:"password_file"`
	// From is the sender's address.
	From string `toml:"from"`
	// CA is a PEM file of the authorities that may sign the server's certificate; those of the
	// system by default.
	CA string `toml:"ca" default:"those of the system"`
}

// The ways in which a connection to a mail server is secured.
const (
	STARTTLS    = "starttls"
	ImplicitTLS = "tls"
)

// Webhook is where each notice is posted, signed as Standard Webhooks has it.
type Webhook struct {
	URL string `toml:"url"`
	// SecretFile has the secret that signs. Only its owner may be able to read it.
	SecretFile string `toml:"secret_file"`
	// CA is as that of [SMTP].
	CA string `toml:"ca" default:"those of the system"`
}

// Keys sets limits for external keys.
type Keys struct {
	// MaxUnlocked bounds how many keys are kept unlocked at once. By default a quarter of the memory
	// is for keys: 65,536 to 1,048,576 of them.
	MaxUnlocked int `toml:"max_unlocked" default:"as many as a quarter of the memory has room for"`
	// RotateAfter is how many encryptions a key version does; default and most
	// 2147483648 (2^31).
	RotateAfter uint64 `toml:"rotate_after" default:"2147483648"`
}

// Audit bounds the audit log, which is in the folder audit of state.dir.
type Audit struct {
	// RetainAge and RetainMiB say how long, and how much of, the log is kept; all of
	// it by default. The rest stays verifiable.
	RetainAge Duration `toml:"retain_age" default:"everything is kept"`
	RetainMiB int      `toml:"retain_mib" default:"everything is kept"`
	// ReserveMiB stay free on the disk: what would use them is refused; default 16.
	// Below WarnMiB there are warnings; default 1024.
	ReserveMiB int `toml:"reserve_mib" default:"16"`
	WarnMiB    int `toml:"warn_mib" default:"1024"`
}

// Log says what is logged.
type Log struct {
	// Level is debug, info (default), warn or error.
	Level string `toml:"level" default:"info"`
	// Format is text (default) or json.
	Format string `toml:"format" default:"text"`
	// Requests says which requests of KMS have a line: failed (default), those that were
	// refused or failed, or all. The audit log has those that were performed anyway.
	Requests string `toml:"requests" default:"failed"`
}

// The values of [Log.Requests].
const (
	RequestsFailed = "failed"
	RequestsAll    = "all"
)

// AWSXKS is the section [aws_xks_config].
type AWSXKS struct {
	Enable          bool   `toml:"aws_xks_enable"`
	Region          string `toml:"aws_xks_region"`
	Service         string `toml:"aws_xks_service"`
	AccessKeyID     string `toml:"aws_xks_sigv4_access_key_id"`
	SecretAccessKey string `toml:"aws_xks_sigv4_secret_access_key"`
}

// Duration is a time span written as in "220ms" or "5s".
type Duration time.Duration

// UnmarshalText reads the duration.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a time span such as \"220ms\" or \"5s\"", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText gives the time span as it is written.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Effective gives the configuration as it is in force, as TOML, with defaults
// and without secrets. Its SHA-256 is what is measured of it.
func (c *Config) Effective() ([]byte, error) {
	shown := *c
	shown.setDefaults()
	if c.AWSXKS != nil {
		section := *c.AWSXKS
		section.SecretAccessKey = "(secret)"
		shown.AWSXKS = &section
	}
	return toml.Marshal(shown)
}

// The defaults of what the command line has to know.
const (
	DefaultStateDir     = "/var/lib/holdfast"
	DefaultSocket       = "/run/holdfast/admin.sock"
	DefaultXKSAddress   = ":8443"
	DefaultAdminAddress = ":9443"
)

func (c *Config) setDefaults() {
	set := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	set(&c.State.Dir, DefaultStateDir)
	set(&c.Release.Method, Sealed)
	set(&c.Admin.Socket, DefaultSocket)
	set(&c.XKS.Address, DefaultXKSAddress)
	set(&c.Admin.Address, DefaultAdminAddress)
	set(&c.Log.Level, "info")
	set(&c.Log.Format, "text")
	set(&c.Log.Requests, RequestsFailed)
}

// Problem is one thing that is wrong, or doubtful, in a file.
type Problem struct {
	File string `json:"file"`
	// Line counts from 1; 0 if the problem has no place, as a missing key.
	Line    int    `json:"line"`
	Message string `json:"message"`
	// Warning means that the file can be used all the same.
	Warning bool `json:"warning"`
}

// String gives the problem in the form that editors understand.
func (p Problem) String() string {
	place := p.File
	if p.Line > 0 {
		place = fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	if p.Warning {
		return place + ": warning: " + p.Message
	}
	return place + ": " + p.Message
}

// Problems is the error of a file that cannot be used.
type Problems []Problem

// Error lists the problems, one in a line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = strings.ReplaceAll(one.String(), "\n", " ")
	}
	return strings.Join(lines, "\n")
}

// maxFile bounds what is read of a file.
const maxFile = 1 << 20

// Load reads a file. It gives the configuration with defaults filled in and
// warnings, or else [Problems] with all that is wrong, in the order of lines.
func Load(path string) (*Config, Problems, error) { return LoadOver(path, func(*Config) {}) }

// LoadOver is Load where begin sets what holds if the file does not say it.
func LoadOver(path string, begin func(*Config)) (*Config, Problems, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	if len(text) > maxFile {
		return nil, nil, fmt.Errorf("configuration %s: larger than %d bytes", path, maxFile)
	}
	exposed := privatefile.Check(f)
	if exposed != nil && !errors.As(exposed, new(*privatefile.Exposed)) {
		return nil, nil, fmt.Errorf("configuration %s: %w", path, exposed)
	}
	return parse(path, text, exposed, begin)
}

// Parse reads a configuration from text; name stands for the file in problems.
func Parse(name string, text []byte) (*Config, Problems, error) {
	return parse(name, text, nil, func(*Config) {})
}

// parse reads a configuration; exposed says why its file may hold no secret, if it may
// not.
func parse(name string, text []byte, exposed error, begin func(*Config)) (*Config, Problems, error) {
	ck := newChecker(name, exposed)
	_, c, err := ck.read(text, func() (any, *Config) {
		c := new(Config)
		begin(c)
		return c, c
	})
	if err != nil {
		return nil, nil, ck.sorted()
	}
	warnings, err := ck.judge(c)
	if err != nil {
		return nil, warnings, err
	}
	c.setDefaults()
	return c, warnings, nil
}

// judge looks at the values of what was read, and says which keys stood there.
func (ck *checker) judge(c *Config) (Problems, error) {
	ck.check(c)
	var warnings, errs Problems
	for _, p := range ck.sorted() {
		if p.Warning {
			warnings = append(warnings, p)
		} else {
			errs = append(errs, p)
		}
	}
	if len(errs) > 0 {
		return warnings, append(errs, warnings...)
	}
	c.given = map[string]bool{}
	for key := range ck.lines {
		c.given[key] = true
	}
	return warnings, nil
}

// checker collects problems.
type checker struct {
	file     string
	exposed  error          // why the file may hold no secret; nil if it may
	lines    map[string]int // by dotted key
	unread   map[string]bool
	problems Problems
	// refuse, if given, says why a key may not stand in the file; "" if it may.
	refuse func(key string) string
}

func newChecker(name string, exposed error) *checker {
	return &checker{file: name, exposed: exposed, lines: map[string]int{}, unread: map[string]bool{}}
}

func (ck *checker) sorted() Problems {
	slices.SortStableFunc(ck.problems, func(a, b Problem) int { return a.Line - b.Line })
	return ck.problems
}

func (ck *checker) add(line int, format string, args ...any) {
	ck.problems = append(ck.problems, Problem{File: ck.file, Line: line, Message: fmt.Sprintf(format, args...)})
}

// at adds a problem of a key.
func (ck *checker) at(key, format string, args ...any) {
	ck.add(ck.line(key), "%s: %s", key, fmt.Sprintf(format, args...))
}

// line is where a key stands, or else the table that has it.
func (ck *checker) line(key string) int {
	for {
		if line, ok := ck.lines[key]; ok {
			return line
		}
		dot := strings.LastIndexByte(key, '.')
		if dot < 0 {
			return 0
		}
		key = key[:dot]
	}
}

// missing adds the problem that a key is not set, unless it is set to what
// could not be read.
func (ck *checker) missing(key, what string) {
	if !ck.unread[key] {
		table, _, _ := strings.Cut(key, ".")
		ck.add(ck.lines[table], "%s is missing: %s", key, what)
	}
}

// statement is one line of TOML that sets a key or begins a table.
type statement struct {
	key  string
	line int
	// alone is the statement as a document of its own.
	alone string
	// inner are the keys of tables within the line.
	inner []string
}

// replaced says what stands in the place of keys of before, by their section and name.
var replaced = map[[2]string]string{
	{"hsm", "process.socket"}: `set hsm.process.unit = true on a machine that has the image's units, or remove the line`,
	{"hsm", "iv_from_token"}:  `set hsm.dialect = "cloudhsm" where it was true, and remove the line where it was false`,
}

// read finds the line of each key, and decodes each statement alone, so that
// all unknown keys and wrong types are found at once and not only the first. It
// gives what could be read, so that it is checked as well: a document of the kind that
// document makes, with the configuration in it; and an error if the text is no TOML.
func (ck *checker) read(text []byte, document func() (any, *Config)) (any, *Config, error) {
	statements, err := ck.split(text)
	whole, c := document()
	if err != nil {
		ck.decodeError(toml.Unmarshal(text, whole), 0)
		if len(ck.problems) == 0 {
			ck.add(1, "not valid TOML: %v", err)
		}
		return nil, nil, err
	}
	unknownTables := map[string]bool{}
	for _, s := range statements {
		one, part := document()
		err := toml.NewDecoder(strings.NewReader(s.alone)).DisallowUnknownFields().Decode(one)
		var strict *toml.StrictMissingError
		switch {
		case errors.As(err, &strict):
			for _, e := range strict.Errors {
				key := strings.Join(e.Key(), ".")
				section, name, _ := strings.Cut(key, ".")
				if instead := replaced[[2]string{section, name}]; instead != "" {
					ck.add(s.line, "unknown key %s: %s", key, instead)
				} else if !unknownTables[key] { // what is in it is unknown as well
					ck.add(s.line, "unknown key %s", key)
				}
				unknownTables[key] = true
			}
		case err != nil:
			ck.decodeError(err, s.line)
			ck.unread[s.key] = true
		case ck.refuses(s, part):
		default:
			_ = toml.Unmarshal([]byte(s.alone), whole) // it has just been decoded
		}
	}
	if len(ck.problems) == 0 {
		whole, c = document() // arrays of tables do not come from statements alone
		if err := toml.Unmarshal(text, whole); err != nil {
			ck.decodeError(err, 0) // such as a key that stands twice
		}
	}
	return whole, c, nil
}

// refuses adds a problem if a statement, which was read into part, sets what may not stand
// in this file, also in a table within the line.
func (ck *checker) refuses(s statement, part *Config) bool {
	if ck.refuse == nil {
		return false
	}
	keys := append([]string{s.key}, s.inner...)
	for _, key := range set(reflect.ValueOf(part).Elem(), "") {
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	refused := false
	for _, key := range keys {
		if why := ck.refuse(key); why != "" {
			ck.add(s.line, "%s: %s", key, why)
			ck.unread[key], refused = true, true
		}
	}
	return refused
}

// set gives the keys that have a value, also in lists of tables.
func set(v reflect.Value, table string) (keys []string) {
	for key, value := range leaves(v, table) {
		switch {
		case value.IsZero():
		case value.Kind() == reflect.Slice && value.Type().Elem().Kind() == reflect.Struct:
			for i := range value.Len() {
				keys = append(keys, set(value.Index(i), key+".")...)
			}
		default:
			keys = append(keys, key)
		}
	}
	return keys
}

// split takes the document apart and notes the line of each key.
func (ck *checker) split(text []byte) ([]statement, error) {
	var statements []statement
	p := unstable.Parser{}
	p.Reset(text)
	table, header := "", ""
	for p.NextExpression() {
		node := p.Expression()
		var parts, quoted []string
		line := 0
		for it := node.Key(); it.Next(); {
			parts = append(parts, string(it.Node().Data))
			quoted = append(quoted, fmt.Sprintf("%q", it.Node().Data))
			if line == 0 {
				line = p.Shape(it.Node().Raw).Start.Line
			}
		}
		key := strings.Join(parts, ".")
		switch node.Kind {
		case unstable.Table, unstable.ArrayTable:
			table, header = key+".", "["+strings.Join(quoted, ".")+"]\n"
			if node.Kind == unstable.ArrayTable {
				header = "[" + strings.TrimSpace(header) + "]\n"
			}
			ck.lines[key] = line
			statements = append(statements, statement{key, line, header, nil})
		case unstable.KeyValue:
			ck.lines[table+key] = line
			inner := inline(node.Value(), table+key)
			for _, key := range inner {
				ck.lines[key] = line
			}
			statements = append(statements, statement{table + key, line, header + string(p.Raw(node.Raw)) + "\n", inner})
		}
	}
	return statements, p.Error()
}

// inline gives the keys within a value that is a table, whatever their values are.
func inline(value *unstable.Node, table string) (keys []string) {
	if value.Kind != unstable.InlineTable {
		return nil
	}
	for it := value.Children(); it.Next(); {
		key := table
		for parts := it.Node().Key(); parts.Next(); {
			key += "." + string(parts.Node().Data)
		}
		keys = append(append(keys, key), inline(it.Node().Value(), key)...)
	}
	return keys
}

// goType is how the decoder names the place of a wrong type, in terms of Go.
var goType = regexp.MustCompile(`struct field \S+ of type `)

// decodeError adds what the decoder says, at the line given or else its own.
func (ck *checker) decodeError(err error, line int) {
	if err == nil {
		return
	}
	message := goType.ReplaceAllString(strings.TrimPrefix(err.Error(), "toml: "), "")
	var d *toml.DecodeError
	if errors.As(err, &d) {
		if line == 0 {
			line, _ = d.Position()
		}
		if key := strings.Join(d.Key(), "."); key != "" {
			message = key + ": " + message
		}
	}
	ck.add(line, "%s", message)
}

var (
	region      = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-[0-9]+$`)
	serviceName = regexp.MustCompile(`^[a-z0-9-]+$`)
)

// check looks at the values.
func (ck *checker) check(c *Config) {
	if c.State.Dir != "" && !filepath.IsAbs(c.State.Dir) {
		ck.at("state.dir", "%q is not an absolute path", c.State.Dir)
	}
	ck.checkPath("state.volume", c.State.Volume)
	ck.checkDatabase(c)
	ck.checkFleet(c)
	ck.checkHSM(&c.HSM)
	for key, module := range c.modulesInState() {
		ck.at(key, "%s", module)
	}
	ck.checkAttestation(&c.Attestation)
	ck.checkRelease(&c.Release)
	ck.checkXKS(&c.XKS)
	ck.checkAddress("admin.address", c.Admin.Address)
	if c.Admin.Socket != "" && !filepath.IsAbs(c.Admin.Socket) {
		ck.at("admin.socket", "%q is not an absolute path", c.Admin.Socket)
	}
	ck.checkAdmin(&c.Admin)
	ck.checkNotify(&c.Notify)
	ck.checkLaunch(&c.Launch)
	ck.checkNotNegative("keys.max_unlocked", c.Keys.MaxUnlocked)
	if c.Keys.RotateAfter > 1<<31 {
		ck.at("keys.rotate_after", "%d is more than 2147483648, half of what AES-GCM with random IVs allows (SP 800-38D)", c.Keys.RotateAfter)
	}
	ck.checkSpan("audit.retain_age", c.Audit.RetainAge, 24*time.Hour, 100*365*24*time.Hour)
	ck.checkNotNegative("audit.retain_mib", c.Audit.RetainMiB)
	ck.checkNotNegative("audit.reserve_mib", c.Audit.ReserveMiB)
	ck.checkNotNegative("audit.warn_mib", c.Audit.WarnMiB)
	if !slices.Contains([]string{"", "debug", "info", "warn", "error"}, c.Log.Level) {
		ck.at("log.level", "%q is none of debug, info, warn, error", c.Log.Level)
	}
	if !slices.Contains([]string{"", "text", "json"}, c.Log.Format) {
		ck.at("log.format", "%q is none of text, json", c.Log.Format)
	}
	if !slices.Contains([]string{"", RequestsFailed, RequestsAll}, c.Log.Requests) {
		ck.at("log.requests", "%q is none of failed, all", c.Log.Requests)
	}
	if c.AWSXKS != nil {
		ck.checkAWSXKS(c.AWSXKS)
	}
}

func (ck *checker) checkAdmin(a *Admin) {
	ck.checkURL("admin.url", a.URL)
	ck.checkSpan("admin.idle", a.Idle, time.Minute, 24*time.Hour)
	ck.checkSpan("admin.session", a.Session, 5*time.Minute, 7*24*time.Hour)
	ck.checkPath("admin.setup_code", a.SetupCode)
	if o := a.OIDC; o.Issuer == "" && o.ClientID == "" && o.ClientSecretFile == "" && len(o.Groups) == 0 && o.GroupsClaim == "" && len(o.Scopes) == 0 {
		return
	}
	if u, err := url.Parse(a.OIDC.Issuer); err != nil || u.Scheme != "https" || u.Host == "" {
		ck.at("admin.oidc.issuer", "%q is not the URL of an OpenID provider, https://HOST/PATH", a.OIDC.Issuer)
	}
	if a.OIDC.ClientID == "" {
		ck.missing("admin.oidc.client_id", "the provider's name for this console")
	}
	ck.checkPath("admin.oidc.client_secret_file", a.OIDC.ClientSecretFile)
	for _, group := range slices.Sorted(maps.Keys(a.OIDC.Groups)) {
		if role := a.OIDC.Groups[group]; group == "" || !slices.Contains(roles, role) {
			ck.at("admin.oidc.groups", "%q gives the role %q; name a group, and viewer, auditor, key-administrator or administrator", group, role)
		}
	}
}

// roles are those of package appliance/identity.
var roles = []string{"viewer", "auditor", "key-administrator", "administrator"}

func (ck *checker) checkNotify(n *Notify) {
	address := func(key, value string) {
		if a, err := mail.ParseAddress(value); err != nil || a.Address != value {
			ck.at(key, "%q is not an e-mail address such as holdfast@example.com", value)
		}
	}
	for _, to := range n.To {
		address("notify.to", to)
	}
	if len(n.To) > 0 && n.SMTP == (SMTP{}) && !ck.unread["notify.smtp.host"] {
		ck.at("notify.to", "it is for notify.smtp, which is not set")
	}
	if s := &n.SMTP; *s != (SMTP{}) {
		if s.Host == "" || strings.ContainsAny(s.Host, ":/ ") {
			ck.missing("notify.smtp.host", "the name of the mail server, without a port")
		}
		if s.From == "" {
			ck.missing("notify.smtp.from", "the sender's address")
		} else {
			address("notify.smtp.from", s.From)
		}
		if s.Port < 0 || s.Port > 65535 {
			ck.at("notify.smtp.port", "%d is not a port", s.Port)
		}
		if !slices.Contains([]string{"", STARTTLS, ImplicitTLS}, s.Security) {
			ck.at("notify.smtp.security", "%q is none of %s, %s; mail goes out by TLS alone", s.Security, STARTTLS, ImplicitTLS)
		}
		if (s.User == "") != (s.PasswordFile == "") && !ck.unread["notify.smtp.user"] && !ck.unread["notify.smtp.password_file"] {
			ck.add(ck.lines["notify.smtp"], "notify.smtp.user and notify.smtp.password_file belong together: one of them is missing")
		}
		ck.checkPath("notify.smtp.password_file", s.PasswordFile)
		ck.checkPath("notify.smtp.ca", s.CA)
	}
	if w := &n.Webhook; *w != (Webhook{}) {
		if u, err := url.Parse(w.URL); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
			ck.at("notify.webhook.url", "%q is not of the form https://HOST/PATH", w.URL)
		}
		if w.SecretFile == "" {
			ck.missing("notify.webhook.secret_file", "the file of the secret that signs; make one with echo whsec_$(openssl rand -base64 32)")
		}
		ck.checkPath("notify.webhook.secret_file", w.SecretFile)
		ck.checkPath("notify.webhook.ca", w.CA)
	}
}

func (ck *checker) checkLaunch(l *Launch) {
	files := []struct{ key, path string }{{"launch.dir", l.Dir}, {"launch.modules", l.Modules}, {"launch.disk", l.Disk}}
	for _, f := range files {
		ck.checkPath(f.key, f.path)
		if f.path != "" && !l.Required && !ck.unread["launch.required"] {
			ck.at(f.key, "it is for launch.required = true, which is not set")
		}
	}
	if l.Required && l.Dir == "" {
		ck.missing("launch.dir", "the folder in which the machine keeps its launch file, outside of the state volume")
	}
	if l.Required && l.Modules == "" {
		ck.missing("launch.modules", "the folder of the image that has the PKCS#11 modules which a launch file may name")
	}
}

func (ck *checker) checkDatabase(c *Config) {
	s := &c.State
	files := []struct{ key, path string }{
		{"state.database_password_file", s.DatabasePasswordFile}, {"state.database_ca", s.DatabaseCA},
		{"state.database_certificate", s.DatabaseCertificate}, {"state.database_key", s.DatabaseKey},
	}
	for _, f := range files {
		ck.checkPath(f.key, f.path)
	}
	if s.Database == "" {
		for _, f := range files {
			if f.path != "" && !ck.unread["state.database"] {
				ck.at(f.key, "it is for state.database, which is not set")
			}
		}
		if s.DatabaseAsynchronous && !ck.unread["state.database"] {
			ck.at("state.database_asynchronous", "it is for state.database, which is not set")
		}
		return
	}
	a, err := address.Parse(s.Database)
	if err != nil {
		ck.at("state.database", "%v", err)
		return
	}
	if c.HSM.NoInstallationObject {
		ck.at("hsm.no_installation_object", "it cannot be true with state.database: the nodes of a fleet tell each other by data objects in the HSM what the database may keep from them. Use an HSM that takes data objects (CKO_DATA), or leave state.database out")
	}
	for _, f := range files[1:] {
		if f.path != "" && a.Socket() {
			ck.at(f.key, "state.database is a Unix socket, which has no TLS; leave it out")
		}
	}
	if (s.DatabaseCertificate == "") != (s.DatabaseKey == "") && !ck.unread["state.database_certificate"] && !ck.unread["state.database_key"] {
		ck.add(ck.lines["state"], "state.database_certificate and state.database_key belong together: one of them is missing")
	}
}

func (ck *checker) checkFleet(c *Config) {
	ck.checkSpan("fleet.grace", c.Fleet.Grace, 10*time.Second, 10*time.Minute)
	if c.Fleet.Address != "" && !appliance.ValidNodeAddress(c.Fleet.Address) {
		ck.at("fleet.address", "%q is not HOST:PORT, where other nodes reach this one", c.Fleet.Address)
	}
	if c.State.Database != "" || ck.unread["state.database"] {
		return
	}
	if c.Fleet.Grace != 0 {
		ck.at("fleet.grace", "it is for state.database, which is not set")
	}
	if c.Fleet.Address != "" {
		ck.at("fleet.address", "it is for state.database, which is not set")
	}
}

// checkURL checks an origin.
func (ck *checker) checkURL(key, value string) {
	if value == "" {
		return
	}
	if u, err := url.Parse(value); err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "" || u.RawQuery != "" {
		ck.at(key, "%q is not of the form https://HOST or https://HOST:PORT", value)
	}
}

func (ck *checker) checkHSM(h *HSM) {
	for _, m := range h.Members {
		ck.checkPath("hsm.members.module", m.Module)
		ck.checkProcess("hsm.members.process.", m.Process)
		ck.checkUnit("hsm.members.process.", m.Process.or(h.Process))
		ck.checkNotNegative("hsm.members.max_sessions", m.MaxSessions)
		ck.checkDialect("hsm.members.dialect", m.Dialect)
		if (m.TokenLabel == "") == (m.TokenSerial == "") {
			ck.at("hsm.members", "each needs token_label or token_serial, and not both")
		}
	}
	if reflect.ValueOf(*h).IsZero() && !ck.unread["hsm.module"] {
		return // this file leaves the HSM to flags, or to another file
	}
	if h.Module == "" {
		ck.missing("hsm.module", "the path of the HSM vendor's PKCS#11 library")
	} else if !filepath.IsAbs(h.Module) {
		ck.at("hsm.module", "%q is not an absolute path", h.Module)
	}
	switch {
	case h.TokenLabel == "" && h.TokenSerial == "" && !ck.unread["hsm.token_serial"]:
		ck.missing("hsm.token_label", "that or hsm.token_serial selects the token")
	case h.TokenLabel != "" && h.TokenSerial != "":
		ck.at("hsm.token_serial", "hsm.token_label selects the token already; keep one of the two")
	}
	ck.checkProcess("hsm.process.", h.Process)
	ck.checkUnit("hsm.process.", h.Process)
	ck.checkNotNegative("hsm.max_sessions", h.MaxSessions)
	ck.checkDialect("hsm.dialect", h.Dialect)
	ck.checkWays(h)
	ck.checkSpan("hsm.lease", h.Lease, time.Second, 24*time.Hour)
}

func (ck *checker) checkDialect(key, name string) {
	if _, ok := dialect.Of(name); !ok {
		ck.at(key, "%q is none of %s", name, strings.Join(dialect.Names(), ", "))
	}
}

// checkWays: what one token wraps the others must unwrap.
func (ck *checker) checkWays(h *HSM) {
	wraps := 0
	tokens := h.Tokens()
	for _, t := range tokens {
		if t.Dialect == dialect.KeyWrap {
			wraps++
		}
	}
	if wraps > 0 && wraps < len(tokens) {
		ck.at("hsm.members", "%d of %d tokens have dialect %q, and what one token wraps the others must unwrap: set it for all of them or for none", wraps, len(tokens), dialect.KeyWrap)
	}
}

// leastMemoryMiB is the smallest bound under which a module's process works.
const leastMemoryMiB = 128

func (ck *checker) checkProcess(at string, p Process) {
	for _, path := range p.Read {
		ck.checkPath(at+"read", path)
	}
	for _, path := range p.Write {
		ck.checkPath(at+"write", path)
	}
	for _, port := range p.Ports {
		if port < 1 || port > 65535 {
			ck.at(at+"ports", "%d is no TCP port: they go from 1 to 65535", port)
		}
	}
	for _, name := range p.Environment {
		if name == "" || strings.ContainsAny(name, "= ") {
			ck.at(at+"environment", "%q is no name of a variable; give the name without its value", name)
		}
	}
	for _, text := range p.Addresses {
		if _, err := network(text); err != nil {
			ck.at(at+"addresses", "%q is neither an IP address nor a network such as 10.0.4.0/24: %v", text, err)
		}
	}
	if p.MemoryMiB != 0 && p.MemoryMiB < leastMemoryMiB {
		ck.at(at+"memory_mib", "%d is too little for a module; give at least %d, or leave it out", p.MemoryMiB, leastMemoryMiB)
	}
}

// checkUnit checks what only a unit can do, and what only a child can. A part of a configuration does not
// say which it is.
func (ck *checker) checkUnit(at string, p Process) {
	switch {
	case ck.refuse != nil:
	case p.Unit && p.Addresses == nil:
		ck.missing(at+"addresses", "the IP addresses or networks of the HSM, with which alone the module's unit may exchange packets; [] if there are none")
	case p.Unit && len(p.Environment) > 0:
		ck.at(at+"environment", "a unit has the variables that its own file sets; set them there, and leave this out")
	case !p.Unit && len(p.Addresses) > 0:
		ck.at(at+"addresses", "only a unit is kept from other addresses; set unit = true on a machine that has the units, or leave this out")
	}
}

func (ck *checker) checkAttestation(a *Attestation) {
	for key, path := range map[string]string{"policy": a.Policy, "policy_key": a.PolicyKey, "tpm": a.TPM, "event_log": a.EventLog, "crl": a.CRL, "tcb": a.TCB} {
		ck.checkPath("attestation."+key, path)
	}
	ck.checkSpan("attestation.every", a.Every, time.Minute, 24*time.Hour)
	ck.checkSpan("attestation.lease", a.Lease, time.Hour, 7*24*time.Hour)
}

func (ck *checker) checkRelease(r *Release) {
	for key, path := range map[string]string{"authorizations": r.Authorizations, "seal_key": r.SealKey, "sealed_pin": r.SealedPIN} {
		ck.checkPath("release."+key, path)
	}
	broker := map[string]string{"broker_url": r.BrokerURL, "broker_pin": r.BrokerPin, "machine": r.Machine}
	switch r.Method {
	case "", Sealed:
		for key, value := range broker {
			if value != "" {
				ck.at("release."+key, "it is for method = %q, which is not chosen", Broker)
			}
		}
	case Broker:
		if u, err := url.Parse(r.BrokerURL); r.BrokerURL != "" && (err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "") {
			ck.at("release.broker_url", "%q is not of the form https://HOST:PORT", r.BrokerURL)
		}
		if r.BrokerPin != "" && !release.ValidPin(r.BrokerPin) {
			ck.at("release.broker_pin", "%q is not of the form sha256/ and 44 characters of Base64; the broker prints it when it starts", r.BrokerPin)
		}
		if r.Machine != "" && !release.ValidMachine(r.Machine) {
			ck.at("release.machine", "%q is not a machine's name: use 1 to 64 letters, digits, '.', '_' and '-', as in the broker's vault", r.Machine)
		}
		for _, key := range []string{"broker_url", "broker_pin", "machine"} {
			if broker[key] == "" {
				ck.missing("release."+key, "it belongs to method = \"broker\"; holdfast broker init prints the pin")
			}
		}
	default:
		ck.at("release.method", "%q is none of %s, %s", r.Method, Sealed, Broker)
	}
}

func (ck *checker) checkPath(key, path string) {
	if path != "" && !filepath.IsAbs(path) {
		ck.at(key, "%q is not an absolute path", path)
	}
}

func (ck *checker) checkSpan(key string, d Duration, least, most time.Duration) {
	if d != 0 && (time.Duration(d) < least || time.Duration(d) > most) {
		ck.at(key, "%s is not between %s and %s", time.Duration(d), least, most)
	}
}

func (ck *checker) checkXKS(x *XKS) {
	ck.checkAddress("xks.address", x.Address)
	if (x.Certificate == "") != (x.Key == "") && !ck.unread["xks.certificate"] && !ck.unread["xks.key"] {
		ck.add(ck.lines["xks"], "xks.certificate and xks.key belong together: one of them is missing")
	}
	if x.ClientCA != "" && len(x.ClientNames) == 0 && !ck.unread["xks.client_names"] {
		ck.at("xks.client_ca", "xks.client_names is missing: the common names allowed, such as [\"cks.kms.eu-west-1.amazonaws.com\"]")
	}
	if x.ClientCA == "" && len(x.ClientNames) > 0 && !ck.unread["xks.client_ca"] {
		ck.at("xks.client_names", "xks.client_ca is missing: without it no client certificate is asked for")
	}
	for _, name := range x.ClientNames {
		if strings.TrimSpace(name) != name || name == "" {
			ck.at("xks.client_names", "%q is not a common name such as cks.kms.eu-west-1.amazonaws.com", name)
		}
	}
	ck.checkEndpoint(x)
	for _, r := range x.Regions {
		if !region.MatchString(r) {
			ck.at("xks.regions", "%q is not a Region such as eu-west-1", r)
		}
	}
	for _, s := range x.Services {
		if !serviceName.MatchString(s) {
			ck.at("xks.services", "%q is not a service name such as kms-xks-proxy", s)
		}
	}
	ck.checkNotNegative("xks.max_connections", x.MaxConnections)
	ck.checkNotNegative("xks.fleet_size", x.FleetSize)
	if x.RequestTimeout < 0 {
		ck.at("xks.request_timeout", "it is negative")
	}
}

// checkEndpoint holds xks.url against what AWS KMS takes.
func (ck *checker) checkEndpoint(x *XKS) {
	if x.Development {
		ck.checkURL("xks.url", x.URL)
		return
	}
	if x.URL == "" {
		return
	}
	if err := appliance.CheckXKSEndpoint(x.URL); err != nil {
		ck.at("xks.url", "%s. For a site that AWS KMS need not reach set xks.development = true", err)
	}
}

// checkAWSXKS: the seed's example must load as it is printed, so what only KMS
// objects to is a warning.
func (ck *checker) checkAWSXKS(a *AWSXKS) {
	const section = "aws_xks_config."
	if ck.exposed != nil {
		ck.at(section+"aws_xks_sigv4_secret_access_key", "the file holds a secret and %s", ck.exposed)
	}
	if !a.Enable {
		return
	}
	if !region.MatchString(a.Region) {
		ck.at(section+"aws_xks_region", "%q is not a Region such as us-east-1", a.Region)
	}
	if !serviceName.MatchString(a.Service) {
		ck.at(section+"aws_xks_service", "%q is not a service name such as kms-xks-proxy", a.Service)
	}
	if !appliance.ValidAccessKeyID(a.AccessKeyID) {
		ck.at(section+"aws_xks_sigv4_access_key_id", "KMS takes 20 to 30 characters of A-Z and 2-7")
	}
	switch n := len(a.SecretAccessKey); {
	case n < 16 || n > 64:
		ck.at(section+"aws_xks_sigv4_secret_access_key", "it has %d characters; KMS takes 43 to 64", n)
	case !appliance.ValidSecretAccessKey(a.SecretAccessKey):
		ck.problems = append(ck.problems, Problem{File: ck.file, Line: ck.lines[section+"aws_xks_sigv4_secret_access_key"], Warning: true,
			Message: section + "aws_xks_sigv4_secret_access_key: KMS will not take this secret, which has " + fmt.Sprint(n) + " characters: it wants 43 to 64 of A-Z, a-z, 0-9, '+', '/' and '='"})
	}
}

func (ck *checker) checkAddress(key, address string) {
	if address == "" {
		return
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		ck.at(key, "%q is not an address such as :8443 or 127.0.0.1:8443", address)
	}
}

func (ck *checker) checkNotNegative(key string, n int) {
	if n < 0 {
		ck.at(key, "%d is negative", n)
	}
}

// SealedPIN is the file of the PIN that the TPM has sealed.
func (c *Config) SealedPIN() string {
	if c.Release.SealedPIN != "" {
		return c.Release.SealedPIN
	}
	return filepath.Join(c.State.Dir, "pin.sealed")
}

// Policies is the folder of the policies, authorizations and approvals that came in over
// the network: the one of the launch file, which lies outside of the state volume; where
// there is none, one in the folder of the state.
func (c *Config) Policies() string {
	return cmp.Or(c.Launch.Dir, filepath.Join(cmp.Or(c.State.Dir, DefaultStateDir), "policies"))
}

// LaunchCertificate is the file in which certificates of the launch file are kept while
// the appliance runs, by the file's name.
func (c *Config) LaunchCertificate(name string) string {
	return filepath.Join(filepath.Dir(cmp.Or(c.Admin.Socket, DefaultSocket)), "launch", name)
}

// InState says whether a path lies in the folder of the state, as it is written or
// as its links lead.
func (c *Config) InState(path string) bool {
	dir := cmp.Or(c.State.Dir, DefaultStateDir)
	return within(dir, path) || within(resolved(dir), resolved(path))
}

func within(dir, path string) bool {
	relative, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(relative)
}

// resolved is the path without links, or as it is if there is nothing.
func resolved(path string) string {
	if r, err := filepath.EvalSymlinks(path); err == nil {
		return r
	}
	return path
}

// modulesInState gives the keys of modules that lie in the state, with what is
// wrong with that: the state is no part of the image, and anybody who can write to
// the volume could exchange them.
func (c *Config) modulesInState() map[string]string {
	wrong := map[string]string{}
	look := func(key, module string) {
		if filepath.IsAbs(module) && c.InState(module) {
			wrong[key] = fmt.Sprintf("%s: a module on the state volume would not be measured with the image; build the image with it", module)
		}
	}
	look("hsm.module", c.HSM.Module)
	for _, m := range c.HSM.Members {
		look("hsm.members.module", m.Module)
	}
	return wrong
}

// Complete says whether there is all that serving needs, as one error that
// names what is missing. A file may leave settings to flags, so this is no part
// of reading it.
func (c *Config) Complete() error {
	var missing []string
	sealed, launched := c.Release.Method != Broker, c.Launch.Required // then locked without an HSM
	for _, need := range []struct {
		key string
		ok  bool
	}{
		{"hsm.module", c.HSM.Module != "" || launched},
		{"hsm.token_label or hsm.token_serial", c.HSM.TokenLabel != "" || c.HSM.TokenSerial != "" || launched},
		{"attestation.policy", c.Attestation.Policy != ""},
		{"attestation.policy_key", c.Attestation.PolicyKey != ""},
		{"release.authorizations", c.Release.Authorizations != "" || !sealed},
		{"release.seal_key", c.Release.SealKey != "" || !sealed},
		{"xks.certificate", c.XKS.Certificate != ""},
		{"xks.key", c.XKS.Key != ""},
	} {
		if !need.ok {
			missing = append(missing, need.key)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing for serving: %s", strings.Join(missing, ", "))
	}
	for key, module := range c.modulesInState() { // flags may have set them
		return fmt.Errorf("%s: %s", key, module)
	}
	return nil
}
