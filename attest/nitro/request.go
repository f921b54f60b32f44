package nitro

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// ErrUnavailable says that the TPM is no NitroTPM, or is not reached as one.
var ErrUnavailable = errors.New("this TPM has no NitroTPM attestation; use /dev/tpm0, not /dev/tpmrm0, of an EC2 instance whose image has TPM support v2.0")

// AWS's command takes its request from an NV index and leaves its answer there
// (github.com/aws/NitroTPM-Tools, nitro-tpm-attest).
const (
	// CommandCode is TPM2_VENDOR_AWS_NSM_REQUEST. It has two handles, both the
	// NV index, the first with its authorization, and no parameters.
	CommandCode tpm2.TPMCC = 0x20000001
	// BufferIndex is the NV index of the message buffer, in the owner's range.
	// It exists for the time of one [Request]. One that an interrupted Request
	// left behind is removed by the next.
	BufferIndex tpm2.TPMHandle = 0x01804847
	// BufferSize is the size of the buffer in bytes: what AWS uses, for a
	// document of 5 KiB with three fields of 1 KiB.
	BufferSize = 8192

	// chunk is how much is read or written at once: what any TPM of the PC
	// Client profile allows.
	chunk = 512
)

// Request asks the NitroTPM for a document with these values, each nil or at
// most [MaxField] bytes. The owner's authorization must be empty, as it is on
// EC2. The answer was parsed, and has what was asked for; it was not verified.
// [ErrUnavailable] says that there is no NitroTPM.
//
// Nobody else may use the TPM meanwhile. The buffer's password is sent in
// clear: who could read it on its way can ask for documents anyway.
func Request(t transport.TPM, userData, nonce, publicKey []byte) (document []byte, err error) {
	asked := Document{UserData: userData, Nonce: nonce, PublicKey: publicKey}
	for _, f := range asked.fields() {
		if len(f.value) > MaxField {
			return nil, fmt.Errorf("NitroTPM: %s has %d bytes, of which it may have %d", f.name, len(f.value), MaxField)
		}
	}
	request, err := cbor.Marshal(message{Attestation: &attestation{UserData: userData, Nonce: nonce, PublicKey: publicKey}})
	if err != nil {
		return nil, fmt.Errorf("NitroTPM: request: %w", err)
	}
	answer, err := exchange(t, request)
	switch {
	case errors.Is(err, ErrUnavailable):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("NitroTPM: %w", err)
	}
	if document, err = decode(answer); err != nil {
		return nil, fmt.Errorf("NitroTPM: answer: %w", err)
	}
	d, err := Parse(document)
	if err != nil {
		return nil, err
	}
	for i, f := range d.fields() {
		if err := equal(f.name, f.value, asked.fields()[i].value); err != nil {
			return nil, fmt.Errorf("NitroTPM: answer: %w", err)
		}
	}
	return document, nil
}

// message is a request, in CBOR as the Nitro Security Module reads it.
type message struct {
	Attestation *attestation `cbor:"Attestation"`
}

type attestation struct {
	UserData  []byte `cbor:"user_data"`
	Nonce     []byte `cbor:"nonce"`
	PublicKey []byte `cbor:"public_key"`
}

// decode reads the document from the answer, which is at the start of the
// buffer. What follows has no meaning.
func decode(answer []byte) ([]byte, error) {
	var a struct {
		Attestation struct {
			Document bstr `cbor:"document"`
		} `cbor:"Attestation"`
		Error string `cbor:"Error"`
	}
	if _, err := strict.UnmarshalFirst(answer, &a); err != nil {
		return nil, err
	}
	if a.Error != "" || a.Attestation.Document == nil {
		return nil, fmt.Errorf("AWS refused the request, or answered something else: %q", a.Error)
	}
	return a.Attestation.Document, nil
}

// exchange passes the request through the buffer, and leaves none behind.
func exchange(t transport.TPM, request []byte) (answer []byte, err error) {
	b, err := define(t)
	if err != nil {
		return nil, err
	}
	defer func() {
		switch e := undefine(t); {
		case e != nil && err != nil:
			err = fmt.Errorf("%w; and the NV index %#x was left behind: %w", err, BufferIndex, e)
		case e != nil:
			err = fmt.Errorf("the NV index %#x was left behind: %w", BufferIndex, e)
		}
	}()
	if err := b.write(request); err != nil {
		return nil, err
	}
	if err := b.command(); err != nil {
		return nil, err
	}
	return b.read()
}

// buffer is the NV index, while it is defined.
type buffer struct {
	tpm    transport.TPM
	auth   tpm2.AuthHandle
	secret []byte
}

// public describes the buffer as AWS's own tool does.
func public() tpm2.TPMSNVPublic {
	return tpm2.TPMSNVPublic{
		NVIndex:    BufferIndex,
		NameAlg:    tpm2.TPMAlgSHA512,
		Attributes: tpm2.TPMANV{AuthRead: true, AuthWrite: true},
		DataSize:   BufferSize,
	}
}

var (
	owner = tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	// index is the buffer. go-tpm wants a name, which a command that is
	// authorized by a password does not use.
	index = tpm2.NamedHandle{Handle: BufferIndex, Name: tpm2.HandleName(BufferIndex)}
)

func define(t transport.TPM) (*buffer, error) {
	secret := make([]byte, 64) // the size of a SHA-512, which is the most
	rand.Read(secret)
	secret[len(secret)-1] |= 1 // a TPM drops zeros at the end
	create := func() error {
		_, err := tpm2.NVDefineSpace{AuthHandle: owner, Auth: tpm2.TPM2BAuth{Buffer: secret}, PublicInfo: tpm2.New2B(public())}.Execute(t)
		return err
	}
	err := create()
	if errors.Is(err, tpm2.TPMRCNVDefined) {
		if err = removeStale(t); err == nil {
			err = create()
		}
	}
	if errors.Is(err, tpm2.TPMRCSize) {
		return nil, fmt.Errorf("%w (it holds no NV index of %d bytes)", ErrUnavailable, BufferSize)
	}
	if err != nil {
		return nil, fmt.Errorf("defining the NV index %#x: %w", BufferIndex, err)
	}
	auth := tpm2.AuthHandle{Handle: index.Handle, Name: index.Name, Auth: tpm2.PasswordAuth(secret)}
	return &buffer{tpm: t, auth: auth, secret: secret}, nil
}

// removeStale removes a buffer that an interrupted Request left behind, and nothing
// else.
func removeStale(t transport.TPM) error {
	r, err := tpm2.NVReadPublic{NVIndex: BufferIndex}.Execute(t)
	if err != nil {
		return err
	}
	pub, err := r.NVPublic.Contents()
	if err != nil {
		return err
	}
	found, ours := *pub, public()
	found.Attributes.Written = false
	if !bytes.Equal(tpm2.Marshal(found), tpm2.Marshal(ours)) {
		return errors.New("it is another program's; move that away")
	}
	return undefine(t)
}

func undefine(t transport.TPM) error {
	_, err := tpm2.NVUndefineSpace{AuthHandle: owner, NVIndex: index}.Execute(t)
	return err
}

func (b *buffer) write(data []byte) error {
	for at := 0; at < len(data); at += chunk {
		part := data[at:min(at+chunk, len(data))]
		if _, err := (tpm2.NVWrite{AuthHandle: b.auth, NVIndex: index, Data: tpm2.TPM2BMaxNVBuffer{Buffer: part}, Offset: uint16(at)}).Execute(b.tpm); err != nil {
			return fmt.Errorf("writing to the NV index %#x: %w", BufferIndex, err)
		}
	}
	return nil
}

func (b *buffer) read() ([]byte, error) {
	var data []byte
	for len(data) < BufferSize {
		r, err := tpm2.NVRead{AuthHandle: b.auth, NVIndex: index, Size: chunk, Offset: uint16(len(data))}.Execute(b.tpm)
		if err != nil {
			return nil, fmt.Errorf("reading the NV index %#x: %w", BufferIndex, err)
		}
		if len(r.Data.Buffer) != chunk {
			return nil, fmt.Errorf("reading the NV index %#x: %d bytes, not %d", BufferIndex, len(r.Data.Buffer), chunk)
		}
		data = append(data, r.Data.Buffer...)
	}
	return data, nil
}

// command sends AWS's command, which go-tpm does not know (TPM 2.0 Part 1,
// section 18: header, handles, authorizations).
func (b *buffer) command() error {
	session := tpm2.Marshal(tpm2.TPMSAuthCommand{Handle: tpm2.TPMRSPW, Authorization: tpm2.TPM2BData{Buffer: b.secret}})
	body := binary.BigEndian.AppendUint32(nil, uint32(BufferIndex))
	body = binary.BigEndian.AppendUint32(body, uint32(BufferIndex))
	body = binary.BigEndian.AppendUint32(body, uint32(len(session)))
	body = append(body, session...)
	const header = 10
	r, err := b.tpm.Send(append(tpm2.Marshal(tpm2.TPMCmdHeader{Tag: tpm2.TPMSTSessions, Length: uint32(header + len(body)), CommandCode: CommandCode}), body...))
	if err != nil {
		return fmt.Errorf("AWS's command: %w", err)
	}
	if len(r) < header || int(binary.BigEndian.Uint32(r[2:])) != len(r) {
		return fmt.Errorf("AWS's command: the TPM's response is malformed: %x", r)
	}
	// Linux's resource manager answers for the TPM, in a layer of its own.
	const fromResourceManager tpm2.TPMRC = 0xb0000
	switch rc := tpm2.TPMRC(binary.BigEndian.Uint32(r[6:])); rc {
	case tpm2.TPMRCSuccess:
		return nil
	case tpm2.TPMRCCommandCode, tpm2.TPMRCCommandCode | fromResourceManager:
		return ErrUnavailable
	default:
		return fmt.Errorf("AWS's command: %w", rc)
	}
}
