package hsm

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"holdfast/hsm/dialect"
	"holdfast/hsm/wire"
)

// Config says which token to open and how. Module, Launcher, PIN and one of
// TokenLabel and TokenSerial are needed.
type Config struct {
	// Module is the path of the vendor's PKCS#11 library.
	Module string
	// TokenLabel or TokenSerial selects the token.
	TokenLabel, TokenSerial string
	// PIN is the user PIN. It is copied, and zeroized by Close.
	PIN []byte
	// MasterKeyLabel is the label of the master key, which Open makes if there
	// is none. Default [DefaultMasterKeyLabel].
	MasterKeyLabel string
	// MasterKeyExists says that something is wrapped under the master key already:
	// if it is not found, that is an error, and none is made in its place.
	MasterKeyExists bool
	// MakingMasterKey, if given, is called before Open makes the master key. An error
	// keeps it from being made, and is that of Open.
	MakingMasterKey func() error
	// ProbeKeyLabel is the label of the key for Probe, likewise. Default
	// holdfast-probe.
	ProbeKeyLabel string
	// MaxSessions bounds the operations in the token at once. Default [DefaultMaxSessions].
	MaxSessions int
	// Dialect is the name of the token's dialect of AES-GCM (package dialect). Default
	// [dialect.Standard].
	Dialect string
	// Launcher starts the module's process. It is needed.
	Launcher Launcher
	// CallTimeout bounds how long one call lasts in the module, also when its caller has
	// given up: past it the process is ended. Default [DefaultCallTimeout].
	CallTimeout time.Duration
	// OpenTimeout bounds how long the token takes to open. Default [DefaultOpenTimeout].
	OpenTimeout time.Duration
	Log         *slog.Logger
	// Observe, if given, is called when an operation has got a session: "Encrypt",
	// "Decrypt", "GenerateRandom", "GenerateKey", "CreateObject", "DestroyObject",
	// "FindObjects" or "Info". What it gives is called when the session is free again, with what came
	// of the operation. Token is the configured label, or else the serial number.
	Observe func(token, operation string) (done func(error))
	// Ended, if given, is called when a module process has ended, or was ended since it was of no use.
	// Token is as for Observe.
	Ended func(token string, e *Ending)
	// Pause gives how long to wait before the attempt'th attempt to open a lost
	// token anew, counting from 0. Default: none, then from half a second
	// doubling up to 30 s, each with jitter.
	Pause func(attempt int) time.Duration
}

// The defaults of a [Config].
const (
	DefaultMasterKeyLabel = "holdfast-master"
	DefaultMaxSessions    = 16
	DefaultCallTimeout    = 10 * time.Second
	DefaultOpenTimeout    = time.Minute
)

func (c *Config) setDefaults() error {
	if c.Module == "" {
		return errors.New("hsm: no PKCS#11 module is named")
	}
	if (c.TokenLabel == "") == (c.TokenSerial == "") {
		return errors.New("hsm: name the token by its label or by its serial number, and not by both")
	}
	d, ok := dialect.Of(c.Dialect)
	if !ok {
		return fmt.Errorf("hsm: there is no dialect %q; there are %s", c.Dialect, strings.Join(dialect.Names(), ", "))
	}
	c.Dialect = d.Name
	if c.MasterKeyLabel == "" {
		c.MasterKeyLabel = DefaultMasterKeyLabel
	}
	if c.ProbeKeyLabel == "" {
		c.ProbeKeyLabel = "holdfast-probe"
	}
	if c.MaxSessions <= 0 {
		c.MaxSessions = DefaultMaxSessions
	}
	if c.Launcher == nil {
		return errors.New("hsm: nothing is named that starts the module's process")
	}
	if c.CallTimeout <= 0 {
		c.CallTimeout = DefaultCallTimeout
	}
	if c.OpenTimeout <= 0 {
		c.OpenTimeout = DefaultOpenTimeout
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Observe == nil {
		c.Observe = func(string, string) func(error) { return func(error) {} }
	}
	if c.Ended == nil {
		c.Ended = func(string, *Ending) {}
	}
	if c.Pause == nil {
		c.Pause = pause
	}
	return nil
}

// name says which token is meant, for errors.
func (c *Config) name() string { return c.settings().Name() }

// label names the token for those who count.
func (c *Config) label() string { return cmp.Or(c.TokenLabel, c.TokenSerial) }

// settings are what the module's process is told.
func (c *Config) settings() wire.Settings {
	return wire.Settings{Module: c.Module, TokenLabel: c.TokenLabel, TokenSerial: c.TokenSerial, MasterKeyLabel: c.MasterKeyLabel,
		ProbeKeyLabel: c.ProbeKeyLabel, MaxSessions: c.MaxSessions, Dialect: c.Dialect}
}

// ownKey says whether the label is of the master key or the probe key.
func (c *Config) ownKey(label string) bool {
	return label == c.MasterKeyLabel || label == c.ProbeKeyLabel
}

const maxPause = 30 * time.Second

func pause(attempt int) time.Duration {
	if attempt == 0 {
		return 0
	}
	d := min(maxPause, 500*time.Millisecond<<min(attempt-1, 10))
	return d/2 + rand.N(d/2)
}
