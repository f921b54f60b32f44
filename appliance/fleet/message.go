package fleet

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// MaxMessage is the longest message between nodes, in bytes.
const MaxMessage = 64 << 10

// Report is what a node tells of itself. All but the position and the schema is for people,
// and decides nothing.
type Report struct {
	// Position is durable in the node's rows, and in effect on its requests.
	Position appliance.Position `json:"position"`
	// Version is that of the software, Schema the number of the rows' schema.
	Version string                 `json:"version"`
	Schema  int64                  `json:"schema"`
	Health  appliance.HealthStatus `json:"health"`
	// AuditSize is how many records the node's audit log has, AuditHead the digest of the
	// last one, hexadecimal.
	AuditSize uint64 `json:"audit_size"`
	AuditHead string `json:"audit_head"`
	// FreshSeconds is how long the node serves without another proof; 0 if it does not.
	FreshSeconds int `json:"fresh_seconds"`
	// Drained says that the node takes no new requests.
	Drained bool `json:"drained"`
	// Hears has the IDs of the nodes that answer this node.
	Hears []string `json:"hears"`
}

// Message is what one node tells another: a call, or the answer to one.
type Message struct {
	From  string `json:"from"` // a node's ID
	To    string `json:"to"`
	Nonce string `json:"nonce"` // of the call; 32 hexadecimal digits
	// Address is where the sender can be called: a hint, as a node may be called by one
	// that it does not know.
	Address string `json:"address"`
	Report  Report `json:"report"`
}

// envelope is a message as it travels.
type envelope struct {
	Body []byte `json:"body"`
	MAC  []byte `json:"mac"`
}

// The directions are in the MAC, so that nothing can be sent back as its own answer.
const (
	calling   = "call"
	answering = "answer"
)

// nonceChars is the length of a nonce.
const nonceChars = 32

func newNonce() string {
	var b [nonceChars / 2]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// code seals and opens the messages of one installation.
type code struct {
	key          appliance.PeerKey
	installation string
}

// mac is over the direction, the installation and the body, which names both nodes and the
// nonce; and, of an answer, over the call.
func (c code) mac(direction string, body, call []byte) []byte {
	before := sha256.Sum256(call)
	b := appliance.Binding{Purpose: "peer", Fields: []string{direction, c.installation, string(body), string(before[:])}}
	return c.key.MAC(b.AAD())
}

// seal gives the message as it travels; call is what it answers, nil for a call.
func (c code) seal(direction string, m *Message, call []byte) ([]byte, error) {
	body, err := json.Marshal(m)
	if err != nil {
		return nil, fault.Wrapf(fault.Internal, err, "a message to node %s cannot be written", m.To)
	}
	text, err := json.Marshal(envelope{Body: body, MAC: c.mac(direction, body, call)})
	if err != nil {
		return nil, fault.Wrapf(fault.Internal, err, "a message to node %s cannot be written", m.To)
	}
	return text, nil
}

// open reads a message; fault.FleetMessage if it was not made by a node of this
// installation that is unlocked, for this direction, and, of an answer, for this call.
func (c code) open(direction string, text, call []byte) (*Message, error) {
	if len(text) > MaxMessage {
		return nil, fault.Errorf(fault.FleetMessage, "a message from another node has more than %d bytes", MaxMessage)
	}
	var e envelope
	if err := json.Unmarshal(text, &e); err != nil {
		return nil, fault.Wrapf(fault.FleetMessage, err, "a message from another node cannot be read")
	}
	if subtle.ConstantTimeCompare(e.MAC, c.mac(direction, e.Body, call)) != 1 {
		return nil, fault.Errorf(fault.FleetMessage, "a message was not made by an unlocked node of this installation, or not for this call")
	}
	m := &Message{}
	if err := json.Unmarshal(e.Body, m); err != nil {
		return nil, fault.Wrapf(fault.FleetMessage, err, "a message from another node cannot be read")
	}
	return m, nil
}
