package release

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"

	"holdfast/appliance/fault"
	"holdfast/attest"
	"holdfast/attest/owner"
)

// The third way to a machine: its owner gives the credential, once, to be sealed there.
// The owner asks for a challenge with a nonce; it has evidence that names a key, to which
// the owner encrypts (HPKE, the broker's ciphersuite) what the verdict allows. The owner
// signs all of it. The machine takes it once, for a minute.

// Challenge is what a machine gives to whoever would give it the credential.
type Challenge struct {
	// Evidence is an evidence file with the asker's nonce and a key to encrypt to.
	Evidence []byte `json:"evidence"`
	// Ticket is for the machine: it knows by it that it has given this evidence.
	Ticket []byte `json:"ticket"`
}

// MaxChallenge is the size of the largest challenge as JSON, in bytes.
const MaxChallenge = maxMessage

// ParseChallenge reads a challenge, and the evidence that is in it.
func ParseChallenge(text []byte) (*Challenge, *attest.Evidence, error) {
	var c Challenge
	if len(text) > MaxChallenge {
		return nil, nil, fmt.Errorf("challenge: it has more than %d bytes", MaxChallenge)
	}
	if err := decode(text, &c); err != nil {
		return nil, nil, fmt.Errorf("challenge: %w", err)
	}
	evidence, err := attest.Parse(c.Evidence)
	if err != nil {
		return nil, nil, fmt.Errorf("challenge: %w", err)
	}
	return &c, evidence, nil
}

// Encode gives the challenge as JSON.
func (c *Challenge) Encode() ([]byte, error) { return json.Marshal(c) }

// givenFormat names what the owner signs, and its version.
const givenFormat = "holdfast-pin/v1"

// given is what the owner signs.
type given struct {
	Format    string `json:"format"`
	Ticket    []byte `json:"ticket"`
	Nonce     []byte `json:"nonce"`
	Evidence  []byte `json:"evidence_sha256"`
	Sealed    []byte `json:"sealed"`
	Approvals []byte `json:"approvals,omitempty"`
}

// giveInfo binds a given credential to its purpose, its nonce and its evidence (RFC 9180
// section 5.1).
func giveInfo(nonce, evidence []byte) []byte {
	return fmt.Appendf(nil, "%s %x %x", givenFormat, nonce, evidence)
}

// Give encrypts the credential to the key in the evidence of the challenge, and signs with
// the owner's key. approvals is a file of the owner's authorizations, which goes along;
// nil if there is none. Whether the machine may have the credential, the caller has found
// out from the evidence.
func Give(c *Challenge, credential, approvals []byte, key ed25519.PrivateKey) ([]byte, error) {
	if n := len(approvals); n > owner.MaxApprovals {
		return nil, fmt.Errorf("the file of approvals has %d bytes, of which %d can go along with a PIN; put it beside the launch file instead, or approve fewer releases", n, owner.MaxApprovals)
	}
	evidence, err := attest.Parse(c.Evidence)
	if err != nil {
		return nil, err
	}
	public, err := kem().NewPublicKey(evidence.ReleaseKey)
	if err != nil {
		return nil, errors.New("the evidence names no key to which a PIN can be encrypted")
	}
	digest := sha256.Sum256(c.Evidence)
	sealed, err := hpke.Seal(public, kdf(), aead(), giveInfo(evidence.Nonce, digest[:]), credential)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(given{givenFormat, c.Ticket, evidence.Nonce, digest[:], sealed, approvals}, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	return owner.SignPIN(text, key)
}

// Taker is the machine's side. It keeps nothing of a challenge, so that strangers who ask
// for many keep nobody out: the key to encrypt to is derived from the nonce, and a ticket
// has a MAC, both under a secret of this process. It remembers what was taken, as long as
// that could be taken again.
type Taker struct {
	secret  [32]byte
	tickets *nonces
}

// NewTaker makes one.
func NewTaker() *Taker {
	t := &Taker{tickets: newNonces()}
	_, _ = rand.Read(t.secret[:]) // never fails (crypto/rand)
	return t
}

func (t *Taker) key(nonce []byte) (hpke.PrivateKey, error) {
	seed, err := hkdf.Key(sha256.New, t.secret[:], nonce, givenFormat, 64)
	if err != nil {
		return nil, err
	}
	defer clear(seed)
	return kem().DeriveKeyPair(seed)
}

// about is what a ticket is for.
func about(nonce, evidence []byte) string { return fmt.Sprintf("%x %x", nonce, evidence) }

// Challenge gives a challenge with evidence that collect makes for the nonce and the key.
func (t *Taker) Challenge(ctx context.Context, now time.Time, nonce []byte, collect func(ctx context.Context, nonce, releaseKey []byte) (*attest.Evidence, error)) (*Challenge, error) {
	key, err := t.key(nonce)
	if err != nil {
		return nil, err
	}
	evidence, err := collect(ctx, nonce, key.PublicKey().Bytes())
	if err != nil {
		return nil, err
	}
	text, err := evidence.Encode()
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(text)
	return &Challenge{Evidence: text, Ticket: t.tickets.issue(now, about(nonce, digest[:]))}, nil
}

// Take gives the credential that the owner with the key has given, which the caller
// zeroizes, and the file of approvals that came along, nil if none did. It can be taken
// once. Errors: [*fault.Fault], with fault.PINOwner, fault.PINChallenge or fault.PINKey.
func (t *Taker) Take(now time.Time, envelope []byte, key ed25519.PublicKey) (credential, approvals []byte, err error) {
	text, err := owner.OpenPIN(envelope, key)
	if errors.Is(err, owner.ErrSignature) {
		return nil, nil, fault.Wrapf(fault.PINOwner, err, "the PIN is not given by this machine's owner")
	}
	var g given
	if err == nil {
		err = decode(text, &g)
	}
	if err == nil && g.Format != givenFormat {
		err = fmt.Errorf("the format is %.80q, and this program reads %q", g.Format, givenFormat)
	}
	if err != nil {
		return nil, nil, fault.Errorf(fault.Invalid, "what was given is not understood: %s", err)
	}
	ticketFor := about(g.Nonce, g.Evidence)
	if !t.tickets.good(now, g.Ticket, ticketFor) {
		return nil, nil, badChallenge()
	}
	private, err := t.key(g.Nonce)
	if err != nil {
		return nil, nil, err
	}
	credential, err = hpke.Open(private, kdf(), aead(), giveInfo(g.Nonce, g.Evidence), g.Sealed)
	if err != nil {
		return nil, nil, fault.Errorf(fault.PINKey, "the PIN is not encrypted to the key of the evidence that the challenge was given with")
	}
	if err := t.tickets.use(now, g.Ticket, ticketFor); err != nil {
		clear(credential)
		return nil, nil, badChallenge()
	}
	return credential, bytes.Clone(g.Approvals), nil
}

func badChallenge() error {
	return fault.Errorf(fault.PINChallenge, "the challenge is not one that this machine gave with this evidence within the last minute, or was used already")
}
