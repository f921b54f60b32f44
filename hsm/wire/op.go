package wire

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Op says what a request asks for. Behind each are its fields, and those of the answer.
type Op byte

// The operations.
const (
	// Look finds the token, without a PIN: [Settings]; [Facts], [Found].
	Look Op = iota + 1
	// Open finds the token and logs in, once: [Settings], PIN; [Opened].
	Open
	// Prepare finds the master key and the probe key, or makes them: [Preparation], and
	// what an earlier Prepare gave, or nothing; a blob, as of Wrap, that every later process
	// must unwrap.
	Prepare
	// Info asks for the token's facts: nothing; [Facts].
	Info
	// Random asks for random bytes: their number (4 bytes); the bytes.
	Random
	// Encrypt encrypts by AES-GCM: label, plaintext, AAD; IV, ciphertext, tag.
	Encrypt
	// Decrypt is the reverse: label, IV, ciphertext, tag, AAD; plaintext.
	Decrypt
	// Wrap encrypts a secret under the master key: secret, AAD; blob.
	Wrap
	// Unwrap is the reverse: blob, AAD; secret.
	Unwrap
	// Generate makes an AES-256 key: label; nothing.
	Generate
	// Import puts an AES-256 key into the token: label, key; nothing.
	Import
	// Destroy destroys a key: label; nothing.
	Destroy
	// Labels lists the labels of secret keys: nothing; the labels, in several messages.
	Labels
	// DataObjects lists the data objects of Holdfast: nothing; label, value and so on, in
	// several messages.
	DataObjects
	// CreateData makes a data object: label, value; nothing.
	CreateData
	// DestroyData removes those of that label and value: label, value; nothing.
	DestroyData
	// Probe opens the token as Open does, for trials, whatever it lacks. The labels of the
	// settings are of keys that trials make: [Settings], PIN; [Found].
	Probe
	// Try does one of the [Trials]: its name; [Found], with what was found before.
	Try
	// Foreign opens the token by crypto11, which is not Holdfast's, and encrypts with the
	// trials' key: [Settings], PIN, plaintext, AAD; IV, ciphertext, tag.
	Foreign
	// Sweep destroys what trials have made: nothing; nothing.
	Sweep
	ops // how many there are, and one
)

var names = [...]string{Look: "Look", Open: "Open", Prepare: "Prepare", Info: "Info", Random: "Random", Encrypt: "Encrypt", Decrypt: "Decrypt",
	Wrap: "Wrap", Unwrap: "Unwrap", Generate: "Generate", Import: "Import", Destroy: "Destroy", Labels: "Labels", DataObjects: "DataObjects",
	CreateData: "CreateData", DestroyData: "DestroyData", Probe: "Probe", Try: "Try", Foreign: "Foreign", Sweep: "Sweep"}

func (o Op) String() string {
	if o > 0 && o < ops {
		return names[o]
	}
	return fmt.Sprintf("operation %d", byte(o))
}

// Answer says what an answer is.
type Answer byte

// The kinds of answers.
const (
	// Completed: the operation is done. Its fields follow.
	Completed Answer = iota + 1
	// More: a part of a list; another message follows.
	More
	// Failed: it is not done. The field is an error.
	Failed
)

// Settings say which token it is.
type Settings struct {
	// Module is the path of the vendor's PKCS#11 library.
	Module string `json:"module"`
	// TokenLabel or TokenSerial selects the token.
	TokenLabel  string `json:"token_label,omitempty"`
	TokenSerial string `json:"token_serial,omitempty"`
	// MasterKeyLabel and ProbeKeyLabel are the labels of Holdfast's own keys.
	MasterKeyLabel string `json:"master_key_label"`
	ProbeKeyLabel  string `json:"probe_key_label"`
	// MaxSessions bounds the sessions.
	MaxSessions int `json:"max_sessions"`
	// Dialect is the name of the dialect of AES-GCM.
	Dialect string `json:"dialect"`
	// Unanswered says that the last attempt to log in had no answer: it may have counted.
	Unanswered bool `json:"unanswered,omitempty"`
}

// Name says which token is meant, for errors.
func (s Settings) Name() string {
	if s.TokenLabel != "" {
		return fmt.Sprintf("token %q of %s", s.TokenLabel, s.Module)
	}
	return fmt.Sprintf("token with serial number %q of %s", s.TokenSerial, s.Module)
}

// Opened is what is known once the token is logged in.
type Opened struct {
	// Sessions is how many operations it does at once.
	Sessions int `json:"sessions"`
	// MasterKey says that the token has a key of the master key's label.
	MasterKey bool `json:"master_key"`
	// OtherKeys says that it can work with other keys than the master key.
	OtherKeys bool `json:"other_keys"`
}

// Preparation says what may be made.
type Preparation struct {
	// MakeMasterKey says that the master key may be made if there is none.
	MakeMasterKey bool `json:"make_master_key"`
}

// BlobFormats is how many formats a wrapped secret has. Its first byte counts them from 1.
const BlobFormats = 3

// Facts are what the token says about itself (PKCS#11 v2.40, CK_TOKEN_INFO).
type Facts struct {
	Label        string `json:"label"`
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	Serial       string `json:"serial"`
	Firmware     string `json:"firmware"`
	Hardware     string `json:"hardware"`
	// FreeSessions is how many more sessions the token allows; -1 if it sets no limit or
	// does not say.
	FreeSessions int `json:"free_sessions"`
	// Dialect is the one in which the token is used, by its name; MaxSessions how many sessions are
	// used at most. Both are empty while nobody is logged in.
	Dialect     string `json:"dialect,omitempty"`
	MaxSessions int    `json:"max_sessions,omitempty"`
	// Process is about the module's process.
	Process Process `json:"process"`
}

// Process is what is known of a module process.
type Process struct {
	// PID is its process ID.
	PID int `json:"pid"`
	// MemoryBytes is how much memory it has, in bytes; 0 if that cannot be read.
	MemoryBytes int64 `json:"memory_bytes"`
	// Confined says in words how it is confined; empty if it is not.
	Confined string `json:"confined"`
	// Starts is how many processes the token has had, this one with them. The other side counts.
	Starts int `json:"starts"`
}

// JSON gives a field of text that is no secret.
func JSON(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil { // only types of this package come here
		panic(err)
	}
	return text
}

// Read reads such a field.
func Read[T any](field []byte) (v T, err error) {
	if err := json.Unmarshal(field, &v); err != nil {
		return v, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return v, nil
}

// Ask sends a request and gives the fields of the answer to use, once for each message of
// it. The fields are cleared when use returns. The error is the other side's, of use, of a
// request that is too large, or of the connection.
func (c *Conn) Ask(m Message, use func(fields [][]byte) error) error {
	if c.n > 0 {
		return &Broken{Err: ErrFrame} // it spoke unasked, and what it said would be taken for the answer
	}
	b, err := c.pack(m)
	if err != nil {
		return err
	}
	first, err := c.exchange(b)
	if errors.Is(err, errUnsent) {
		return &Broken{Err: err, Unsent: true}
	}
	return c.await(first, err, use)
}

// Broken is a failure of the connection, and not of what was asked.
type Broken struct {
	Err error
	// Unsent says that nothing was sent: there is no answer to wait for.
	Unsent bool
}

func (b *Broken) Error() string { return b.Err.Error() }

// Unwrap gives the cause.
func (b *Broken) Unwrap() error { return b.Err }

// Await receives the answer to what was sent, as [Conn.Ask] does. After a [Broken] by the
// deadline it can be called again.
func (c *Conn) Await(use func(fields [][]byte) error) error {
	m, err := c.Receive()
	return c.await(m, err, use)
}

// await uses the answer that begins with m, or with the error of its receipt.
func (c *Conn) await(m Message, err error, use func(fields [][]byte) error) error {
	for {
		if err != nil {
			return &Broken{Err: err}
		}
		kind := Answer(m.Kind)
		switch kind {
		case Completed, More:
			err = use(m.Fields)
		case Failed:
			err = failureOf(m)
		default:
			err = &Broken{Err: ErrFrame}
		}
		c.Done()
		switch {
		case kind != More:
			return err
		case err != nil: // what else is to come would be taken for another answer
			return &Broken{Err: err}
		}
		m, err = c.Receive()
	}
}

// Answer sends an answer: the fields, or the error.
func (c *Conn) Answer(kind Answer, fields [][]byte, err error) error {
	return c.Send(answerOf(kind, fields, err))
}

// Put has the answer to a request, its last, copied to the connection's memory, for
// [Conn.Next] to send.
func (c *Conn) Put(fields [][]byte, err error) error {
	c.put, err = c.pack(answerOf(Completed, fields, err))
	return err
}

// Next sends what was put, clears it, and gives the next request.
func (c *Conn) Next() (Message, error) { return c.exchange(c.put) }

func answerOf(kind Answer, fields [][]byte, err error) Message {
	if err != nil {
		return failed(err)
	}
	return Message{Kind: byte(kind), Fields: fields}
}
