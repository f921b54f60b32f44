package tpm

import (
	"bytes"
	"crypto"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Device is a TPM. Its methods may be called concurrently: each has the TPM for
// itself, and leaves nothing loaded.
//
// Commands that carry secrets or that take authorizations run in sessions that
// are salted to the endorsement key and encrypt their first parameter, so that
// who only listens on the bus learns nothing, and who changes bits is noticed.
// The endorsement key itself is taken from the TPM unproved, so an interposer
// that pretends to be the TPM is not.
type Device struct {
	mu  sync.Mutex
	tpm transport.TPMCloser
}

// NewDevice gives the use of a TPM that has been opened (attest/device does that).
// It is closed by [Device.Close].
func NewDevice(t transport.TPMCloser) *Device { return &Device{tpm: t} }

// Close ends the use of the TPM.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tpm.Close()
}

// Do gives f the TPM, for itself alone. f must flush what it loads, of which
// there may be three objects at a time, and must not call methods of d.
func (d *Device) Do(f func(transport.TPM) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return f(d.tpm)
}

// What a session encrypts: the first parameter of the command, of the response,
// or both, where they are sized buffers (TPM 2.0 Part 1, section 21).
var (
	command  = tpm2.AESEncryption(128, tpm2.EncryptIn)
	response = tpm2.AESEncryption(128, tpm2.EncryptOut)
	both     = tpm2.AESEncryption(128, tpm2.EncryptInOut)
)

// salted gives f a session for one command: HMAC with SHA-256, salted to the
// endorsement key, with parameters encrypted.
func salted(t transport.TPM, encrypt tpm2.AuthOption, f func(session tpm2.Session) error) error {
	ek, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(tpm2.ECCEKTemplate)}.Execute(t)
	if err != nil {
		return fmt.Errorf("TPM2_CreatePrimary, endorsement key: %w", err)
	}
	defer flush(t, ek.ObjectHandle)
	public, err := ek.OutPublic.Contents()
	if err != nil {
		return fmt.Errorf("endorsement key: %w", err)
	}
	return f(tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Salted(ek.ObjectHandle, *public), encrypt))
}

// Salted gives f a session for one command that has no secret parameters: HMAC with
// SHA-256, salted to the endorsement key, so that the answer is authenticated. The
// first parameter of the answer is encrypted. f must have the TPM for itself.
func Salted(t transport.TPM, f func(session tpm2.Session) error) error {
	return salted(t, response, f)
}

func flush(t transport.TPM, h tpm2.TPMHandle) { _, _ = tpm2.FlushContext{FlushHandle: h}.Execute(t) }

// Selection names PCRs of a bank.
type Selection struct {
	Bank string // sha256 or sha384
	PCRs []int  // 0 to 23
}

// selection gives the selections as the TPM takes them.
func selection(selections []Selection) (tpm2.TPMLPCRSelection, error) {
	var list tpm2.TPMLPCRSelection
	for i, s := range selections {
		b, err := findBank(s.Bank)
		if err != nil {
			return list, err
		}
		if slices.ContainsFunc(selections[:i], func(o Selection) bool { return o.Bank == s.Bank }) {
			return list, fmt.Errorf("the bank %s is selected twice", s.Bank)
		}
		var pcrs []uint
		for _, n := range s.PCRs {
			if n < 0 || n > maxPCR {
				return list, fmt.Errorf("there is no PCR %d; a TPM has 0 to %d", n, maxPCR)
			}
			pcrs = append(pcrs, uint(n))
		}
		if len(pcrs) == 0 {
			return list, fmt.Errorf("no PCR of the bank %s is selected", s.Bank)
		}
		list.PCRSelections = append(list.PCRSelections, tpm2.TPMSPCRSelection{Hash: b.tpm, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)})
	}
	if len(list.PCRSelections) == 0 {
		return list, errors.New("no PCR is selected")
	}
	return list, nil
}

// Banks are the active PCR banks that this package knows: sha256, sha384, or
// both.
func (d *Device) Banks() (names []string, err error) {
	err = d.Do(func(t transport.TPM) (err error) {
		names, err = activeBanks(t)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	return names, nil
}

func activeBanks(t transport.TPM) (names []string, err error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1}.Execute(t)
	if err != nil {
		return nil, fmt.Errorf("TPM2_GetCapability, PCR banks: %w", err)
	}
	assigned, err := rsp.CapabilityData.Data.AssignedPCR()
	if err != nil {
		return nil, fmt.Errorf("PCR banks: %w", err)
	}
	for _, s := range assigned.PCRSelections {
		if b := bankOf(s.Hash); b != nil && len(indices(s)) > 0 {
			names = append(names, b.name)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("neither a SHA-256 nor a SHA-384 bank of PCRs is active; activate one in the firmware")
	}
	slices.Sort(names)
	return names, nil
}

// ReadPCRs gives the values of PCRs of a bank, by index.
func (d *Device) ReadPCRs(bank string, pcrs []int) (values map[int][]byte, err error) {
	list, err := selection([]Selection{{bank, pcrs}})
	if err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	err = d.Do(func(t transport.TPM) error {
		all, err := readPCRs(t, list)
		values = plain(all[bank])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	return values, nil
}

// readPCRs reads all of the selection, of which the TPM gives at most eight at a
// time (TPM 2.0 Part 2, TPML_DIGEST).
func readPCRs(t transport.TPM, list tpm2.TPMLPCRSelection) (PCRs, error) {
	values := PCRs{}
	for _, s := range list.PCRSelections {
		b := bankOf(s.Hash)
		values[b.name] = map[int]Hex{}
		want := indices(s)
		for part := range slices.Chunk(want, 8) {
			ask := make([]uint, len(part))
			for i, n := range part {
				ask[i] = uint(n)
			}
			rsp, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: s.Hash, PCRSelect: tpm2.PCClientCompatible.PCRs(ask...)}}}}.Execute(t)
			if err != nil {
				return nil, fmt.Errorf("TPM2_PCR_Read, %s %v: %w", b.name, part, err)
			}
			var got []int
			if len(rsp.PCRSelectionOut.PCRSelections) == 1 {
				got = indices(rsp.PCRSelectionOut.PCRSelections[0])
			}
			if !slices.Equal(got, part) || len(rsp.PCRValues.Digests) != len(part) {
				return nil, fmt.Errorf("TPM2_PCR_Read, %s %v: the TPM gives %v; is the bank active?", b.name, part, got)
			}
			for i, n := range part {
				values[b.name][n] = rsp.PCRValues.Digests[i].Buffer
			}
		}
	}
	return values, nil
}

// maxEvent is the size of the largest event in bytes (TPM 2.0 Part 2,
// TPM2B_EVENT).
const maxEvent = 1024

// Extend has the TPM hash the event, at most 1024 bytes, and extend the PCR in
// all active banks, so that none is left with the value of a machine on which
// the event did not happen (TPM 2.0 Part 3, TPM2_PCR_Event).
func (d *Device) Extend(pcr int, event []byte) error {
	if pcr < 0 || pcr > maxPCR || len(event) > maxEvent {
		return fmt.Errorf("tpm: extend PCR %d with %d bytes: a TPM has 0 to %d and takes %d bytes", pcr, len(event), maxPCR, maxEvent)
	}
	return d.Do(func(t transport.TPM) error {
		return salted(t, command, func(session tpm2.Session) error {
			_, err := tpm2.PCREvent{
				PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: session},
				EventData: tpm2.TPM2BEvent{Buffer: event},
			}.Execute(t)
			if err != nil {
				return fmt.Errorf("tpm: TPM2_PCR_Event, PCR %d: %w", pcr, err)
			}
			return nil
		})
	})
}

// Measure extends the measurement's PCR with it. The caller keeps the
// measurement, for the evidence.
func (d *Device) Measure(m Measurement) error {
	if err := m.validate(); err != nil {
		return fmt.Errorf("tpm: %w", err)
	}
	return d.Extend(m.PCR, m.event())
}

// Cap extends [ApplicationPCR] with the one value that is extended when the machine has
// had its secrets: nothing later in this boot can unseal what is sealed to the
// value before. It gives the measurement, which belongs to the evidence after
// all others.
func (d *Device) Cap() (Measurement, error) {
	m := Cap()
	return m, d.Measure(m)
}

// AK is an attestation key: it signs nothing but what its TPM says.
type AK struct {
	// Public is its public area: the bytes of a TPMT_PUBLIC.
	Public []byte
}

// akTemplate is what the attestation key is derived from. To change it is to
// give all machines another identity.
var akTemplate = tpm2.TPMTPublic{
	Type:    tpm2.TPMAlgECC,
	NameAlg: tpm2.TPMAlgSHA256,
	ObjectAttributes: tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true,
	},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Scheme:  tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
		CurveID: tpm2.TPMECCNistP256,
	}),
	Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)}, Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)},
	}),
}

// CreateAK gives the attestation key: a primary key of the endorsement
// hierarchy on P-256, for ECDSA with SHA-256. It is derived from the TPM's seed,
// so it is the same after every boot, and nothing has to be kept.
func (d *Device) CreateAK() (*AK, error) {
	var ak *AK
	err := d.Do(func(t transport.TPM) error {
		return withAK(t, func(key tpm2.NamedHandle, public []byte) error {
			ak = &AK{Public: public}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	return ak, nil
}

func withAK(t transport.TPM, f func(key tpm2.NamedHandle, public []byte) error) error {
	var ak *tpm2.CreatePrimaryResponse
	err := salted(t, both, func(session tpm2.Session) (err error) {
		ak, err = tpm2.CreatePrimary{
			PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: session},
			InPublic:      tpm2.New2B(akTemplate),
		}.Execute(t)
		if err != nil {
			return fmt.Errorf("TPM2_CreatePrimary, attestation key: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	defer flush(t, ak.ObjectHandle)
	return f(tpm2.NamedHandle{Handle: ak.ObjectHandle, Name: ak.Name}, ak.OutPublic.Bytes())
}

// Quote is what the attestation key has signed.
type Quote struct {
	// Attest is the bytes of a TPMS_ATTEST, Signature those of a TPMT_SIGNATURE.
	Attest, Signature []byte
	// PCRs are the values that were quoted.
	PCRs PCRs
}

// attempts is how often a quote is tried while PCRs change.
const attempts = 10

// Quote has the attestation key sign the PCRs of all selections, with the
// qualifying data (at most 64 bytes), in one quote.
func (d *Device) Quote(ak *AK, qualifyingData []byte, selections ...Selection) (*Quote, error) {
	list, err := selection(selections)
	if err != nil {
		return nil, fmt.Errorf("tpm: quote: %w", err)
	}
	var q *Quote
	err = d.Do(func(t transport.TPM) error {
		return withAK(t, func(key tpm2.NamedHandle, public []byte) error {
			if !bytes.Equal(public, ak.Public) {
				return errors.New("the attestation key is another TPM's, or this TPM was given a new identity; make the key anew")
			}
			for range attempts {
				q, err = quote(t, key, qualifyingData, list)
				if !errors.Is(err, errMoved) {
					break
				}
			}
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("tpm: quote: %w", err)
	}
	return q, nil
}

// errMoved says that PCRs changed between reading and quoting them.
var errMoved = errors.New("the PCRs are not those that were read; does something keep extending them?")

func quote(t transport.TPM, key tpm2.NamedHandle, qualifyingData []byte, list tpm2.TPMLPCRSelection) (*Quote, error) {
	values, err := readPCRs(t, list)
	if err != nil {
		return nil, err
	}
	var q *Quote
	err = salted(t, both, func(session tpm2.Session) error {
		rsp, err := tpm2.Quote{
			SignHandle:     tpm2.AuthHandle{Handle: key.Handle, Name: key.Name, Auth: session},
			QualifyingData: tpm2.TPM2BData{Buffer: qualifyingData},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			PCRSelect:      list,
		}.Execute(t)
		if err != nil {
			return fmt.Errorf("TPM2_Quote: %w", err)
		}
		q = &Quote{Attest: rsp.Quoted.Bytes(), Signature: tpm2.Marshal(rsp.Signature), PCRs: values}
		return nil
	})
	if err != nil {
		return nil, err
	}
	attest, err := parse[tpm2.TPMSAttest](q.Attest)
	if err != nil {
		return nil, err
	}
	info, err := attest.Attested.Quote()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(tpm2.Marshal(info.PCRSelect), tpm2.Marshal(list)) {
		return nil, errors.New("the TPM quoted other PCRs than were selected; are the banks active?")
	}
	if digest, err := values.digest(info.PCRSelect, crypto.SHA256); err != nil || !bytes.Equal(digest, info.PCRDigest.Buffer) {
		return nil, errors.Join(errMoved, err)
	}
	return q, nil
}

// The NV indices of the endorsement key's certificate (TCG EK Credential
// Profile 2.x, section 2.2.1.4).
var ekCertificates = []tpm2.TPMHandle{
	0x01c0000a, // ECC P-256
	0x01c00002, // RSA 2048
}

// EKCertificate gives the certificate (DER) that the TPM's maker gave its
// endorsement key, or nil if there is none, as in a NitroTPM.
func (d *Device) EKCertificate() (der []byte, err error) {
	err = d.Do(func(t transport.TPM) (err error) {
		for _, index := range ekCertificates {
			if der, err = readCertificate(t, index); err != nil || der != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("tpm: endorsement key's certificate: %w", err)
	}
	return der, nil
}

// nvChunk is how much NV memory is read at once, in bytes: what any TPM of the
// PC Client profile allows.
const nvChunk = 512

func readCertificate(t transport.TPM, index tpm2.TPMHandle) ([]byte, error) {
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("TPM2_NV_ReadPublic, %#x: %w", uint32(index), err)
	}
	nv, err := public.NVPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("NV index %#x: %w", uint32(index), err)
	}
	if !nv.Attributes.Written {
		return nil, nil
	}
	if nv.DataSize > maxCertificate {
		return nil, fmt.Errorf("NV index %#x has %d bytes, of which a certificate may have %d", uint32(index), nv.DataSize, maxCertificate)
	}
	var data []byte
	for uint16(len(data)) < nv.DataSize {
		err := salted(t, response, func(session tpm2.Session) error {
			rsp, err := tpm2.NVRead{
				AuthHandle: tpm2.AuthHandle{Handle: index, Name: public.NVName, Auth: session},
				NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
				Size:       min(nvChunk, nv.DataSize-uint16(len(data))),
				Offset:     uint16(len(data)),
			}.Execute(t)
			if err != nil {
				return fmt.Errorf("TPM2_NV_Read, %#x: %w", uint32(index), err)
			}
			if len(rsp.Data.Buffer) == 0 {
				return fmt.Errorf("TPM2_NV_Read, %#x: the TPM gives nothing", uint32(index))
			}
			data = append(data, rsp.Data.Buffer...)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	var certificate asn1.RawValue // the index may be larger than the certificate
	if _, err := asn1.Unmarshal(data, &certificate); err != nil {
		return nil, fmt.Errorf("NV index %#x holds no certificate: %w", uint32(index), err)
	}
	return certificate.FullBytes, nil
}
