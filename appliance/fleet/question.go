package fleet

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// The longest question and answer between nodes, in bytes, with what binds them. A body
// has at most [MaxAnswerBody] bytes.
const (
	MaxQuestion   = 64 << 10
	MaxAnswer     = 4 << 20
	MaxAnswerBody = MaxAnswer - maxFrame
	// maxFrame is what an answer has beside its body, at most.
	maxFrame = 8 << 10
	// maxReason bounds why a node did not answer, in bytes.
	maxReason = 1 << 10
)

// question is what one node asks another, besides its heartbeats. Its body comes after it.
type question struct {
	From  string `json:"from"` // a node's ID
	To    string `json:"to"`
	Nonce string `json:"nonce"` // 32 hexadecimal digits
	// Epoch is one of the node that is asked; empty if none is known.
	Epoch string `json:"epoch"`
	Kind  string `json:"kind"`
}

// reply is the answer to a question. Its body comes after it.
type reply struct {
	From  string `json:"from"`
	To    string `json:"to"`
	Nonce string `json:"nonce"` // of the question
	// Epoch is the one that the next question is to name.
	Epoch string `json:"epoch"`
	// Stale says that nothing was done, as the question names another epoch: ask again.
	Stale bool `json:"stale,omitempty"`
	// Code and Reason say why there is no answer.
	Code   fault.Code `json:"code,omitempty"`
	Reason string     `json:"reason,omitempty"`
}

// frame is what a question or an answer is without its MAC: the header, which is a line of
// JSON, and the body.
func frame(header any, body []byte) ([]byte, error) {
	line, err := json.Marshal(header)
	if err != nil {
		return nil, fault.Wrapf(fault.Internal, err, "what is said to another node cannot be written")
	}
	return append(append(line, '\n'), body...), nil
}

// sealFrame puts the MAC before a frame; asked is the question as it travelled that it
// answers, nil for a question.
func (c code) sealFrame(direction string, frame, asked []byte) []byte {
	return append(c.frameMAC(direction, frame, asked), frame...)
}

// frameMAC is over the direction, the installation and the frame, which names both nodes,
// nonce and kind; and, of an answer, over the question. No heartbeat has that purpose.
func (c code) frameMAC(direction string, frame, asked []byte) []byte {
	before := sha256.Sum256(asked)
	b := appliance.Binding{Purpose: "peer-question", Fields: []string{direction, c.installation, string(frame), string(before[:])}}
	return c.key.MAC(b.AAD())
}

// openFrame reads a header, and gives the body; fault.FleetMessage if it was not made by an
// unlocked node of this installation, for this direction, and, of an answer, for this
// question.
func (c code) openFrame(direction string, text, asked []byte, header any) (body []byte, err error) {
	if len(text) < sha256.Size {
		return nil, fault.Errorf(fault.FleetMessage, "what another node says has only %d bytes", len(text))
	}
	mac, frame := text[:sha256.Size], text[sha256.Size:]
	if subtle.ConstantTimeCompare(mac, c.frameMAC(direction, frame, asked)) != 1 {
		return nil, fault.Errorf(fault.FleetMessage, "what was said was not made by an unlocked node of this installation, or not for this question")
	}
	line, body, _ := bytes.Cut(frame, []byte("\n"))
	if err := json.Unmarshal(line, header); err != nil {
		return nil, fault.Wrapf(fault.FleetMessage, err, "what another node says cannot be read")
	}
	return body, nil
}
