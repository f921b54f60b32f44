package nitrotest

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"holdfast/attest/nitro"
)

// TPM adds AWS's command to another TPM: it keeps the NV index
// [nitro.BufferIndex] itself and passes on everything else. One goroutine may
// use it at a time, as with any TPM.
type TPM struct {
	// Authority signs.
	Authority *Authority
	// Document gives what AWS knows: module, time and PCRs. The rest is the
	// request's.
	Document func() (nitro.Document, error)
	// Inner is the other TPM; if nil, there are no other commands.
	Inner transport.TPM

	mu     sync.Mutex
	buffer []byte // nil while the index is not defined
	public []byte // TPMS_NV_PUBLIC
	auth   []byte
}

// Where things are in a TPMS_NV_PUBLIC without a policy: handle 4, algorithm 2,
// attributes 4, policy 2, size 2 bytes.
const (
	publicSize = 14
	attributes = 6
	written    = 1 << (29 - 24) // TPMA_NV_WRITTEN
)

// Defined says whether the message buffer exists.
func (t *TPM) Defined() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buffer != nil
}

// Send implements [transport.TPM].
func (t *TPM) Send(command []byte) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := parse(command)
	if !ok {
		return response(tpm2.TPMRCCommandSize, nil), nil
	}
	ours := c.handles != nil && c.handles[len(c.handles)-1] == uint32(nitro.BufferIndex)
	if c.code == tpm2.TPMCCNVDefineSpace { // the index is in the parameters
		p := reader{c.parameters}
		p.sized() // password
		p.uint16()
		ours = p.uint32() == uint32(nitro.BufferIndex)
	}
	switch {
	case ours:
		return t.answer(c), nil
	case t.Inner != nil:
		return t.Inner.Send(command)
	}
	return response(tpm2.TPMRCCommandCode, nil), nil
}

func (t *TPM) answer(c command) []byte {
	p := reader{c.parameters}
	if c.code == tpm2.TPMCCNVDefineSpace {
		if t.buffer != nil {
			return response(tpm2.TPMRCNVDefined, nil)
		}
		t.auth = bytes.Clone(p.sized())
		t.public = bytes.Clone(p.sized())
		if len(t.public) < publicSize {
			return response(tpm2.TPMRCSize, nil)
		}
		size := binary.BigEndian.Uint16(t.public[len(t.public)-2:])
		t.buffer = bytes.Repeat([]byte{0xff}, int(size))
		return response(tpm2.TPMRCSuccess, []byte{})
	}
	if t.buffer == nil {
		return response(tpm2.TPMRCHandle, nil)
	}
	switch c.code {
	case tpm2.TPMCCNVUndefineSpace:
		t.buffer = nil
		return response(tpm2.TPMRCSuccess, []byte{})
	case tpm2.TPMCCNVReadPublic:
		return frame(tpm2.TPMSTNoSessions, tpm2.TPMRCSuccess, append(sized(t.public), sized(nil)...))
	}
	if !bytes.Equal(c.password, t.auth) || c.handles[0] != c.handles[1] {
		return response(tpm2.TPMRCAuthFail, nil)
	}
	switch c.code {
	case tpm2.TPMCCNVWrite:
		data := p.sized()
		at := int(p.uint16())
		if at+len(data) > len(t.buffer) {
			return response(tpm2.TPMRCNVRange, nil)
		}
		copy(t.buffer[at:], data)
		t.public[attributes] |= written
		return response(tpm2.TPMRCSuccess, []byte{})
	case tpm2.TPMCCNVRead:
		size, at := int(p.uint16()), int(p.uint16())
		if at+size > len(t.buffer) {
			return response(tpm2.TPMRCNVRange, nil)
		}
		return response(tpm2.TPMRCSuccess, sized(t.buffer[at:at+size]))
	case nitro.CommandCode:
		copy(t.buffer, t.sign(t.buffer))
		return response(tpm2.TPMRCSuccess, []byte{})
	}
	return response(tpm2.TPMRCCommandCode, nil)
}

// sign answers a request of the Nitro Security Module.
func (t *TPM) sign(request []byte) []byte {
	refuse := func(why string) []byte { return must(cbor.Marshal(map[string]string{"Error": why})) }
	var r struct {
		Attestation *struct {
			UserData  []byte `cbor:"user_data"`
			Nonce     []byte `cbor:"nonce"`
			PublicKey []byte `cbor:"public_key"`
		}
	}
	if _, err := cbor.UnmarshalFirst(request, &r); err != nil || r.Attestation == nil {
		return refuse("InvalidArgument")
	}
	doc, err := t.Document()
	if err != nil {
		return refuse("InternalError")
	}
	doc.UserData, doc.Nonce, doc.PublicKey = r.Attestation.UserData, r.Attestation.Nonce, r.Attestation.PublicKey
	return must(cbor.Marshal(map[string]map[string][]byte{"Attestation": {"document": t.Authority.Sign(doc)}}))
}

// command is a TPM command in its parts (TPM 2.0 Part 1, section 18).
type command struct {
	code       tpm2.TPMCC
	handles    []uint32
	password   []byte
	parameters []byte
}

// handleCounts are the commands that have to do with NV indices.
var handleCounts = map[tpm2.TPMCC]int{
	tpm2.TPMCCNVDefineSpace: 1, tpm2.TPMCCNVUndefineSpace: 2, tpm2.TPMCCNVReadPublic: 1,
	tpm2.TPMCCNVWrite: 2, tpm2.TPMCCNVRead: 2, nitro.CommandCode: 2,
}

func parse(b []byte) (c command, ok bool) {
	r := reader{b}
	tag := r.uint16()
	if int(r.uint32()) != len(b) || len(b) < 10 {
		return c, false
	}
	c.code = tpm2.TPMCC(r.uint32())
	for range handleCounts[c.code] {
		c.handles = append(c.handles, r.uint32())
	}
	if tag == uint16(tpm2.TPMSTSessions) {
		session := reader{r.take(int(r.uint32()))}
		session.uint32() // TPM_RS_PW
		session.sized()  // nonce
		session.take(1)  // attributes
		c.password = session.sized()
	}
	c.parameters = r.b
	return c, true
}

// reader takes big-endian values from bytes; zeros where there are none.
type reader struct{ b []byte }

func (r *reader) take(n int) []byte {
	n = max(0, min(n, len(r.b)))
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) uint16() uint16 { return uint16(r.number(2)) }
func (r *reader) uint32() uint32 { return uint32(r.number(4)) }
func (r *reader) sized() []byte  { return r.take(int(r.uint16())) }

func (r *reader) number(size int) (n uint64) {
	for _, b := range r.take(size) {
		n = n<<8 | uint64(b)
	}
	return n
}

func sized(b []byte) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...) }

// response gives the response to a command that has a password, or to one that
// failed if there are no parameters.
func response(rc tpm2.TPMRC, parameters []byte) []byte {
	if parameters == nil {
		return frame(tpm2.TPMSTNoSessions, rc, nil)
	}
	acknowledgement := []byte{0, 0, 1, 0, 0} // no nonce, continueSession, no HMAC
	return frame(tpm2.TPMSTSessions, rc, slices.Concat(binary.BigEndian.AppendUint32(nil, uint32(len(parameters))), parameters, acknowledgement))
}

func frame(tag tpm2.TPMST, rc tpm2.TPMRC, body []byte) []byte {
	out := binary.BigEndian.AppendUint16(nil, uint16(tag))
	out = binary.BigEndian.AppendUint32(out, uint32(10+len(body)))
	out = binary.BigEndian.AppendUint32(out, uint32(rc))
	return append(out, body...)
}
