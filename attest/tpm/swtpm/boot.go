package swtpm

import (
	"bytes"
	"crypto"
	_ "crypto/sha256" // for the banks
	_ "crypto/sha512"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"unicode/utf16"

	"github.com/google/go-eventlog/tcg"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"holdfast/attest/device"
	"holdfast/attest/tpm"
)

// Event is one that firmware or a boot loader measures.
type Event struct {
	PCR  int
	Type tcg.EventType
	// Data is what the log says, Measured what is hashed: Data if nil.
	Data, Measured []byte
}

func (e Event) digest(h crypto.Hash) []byte {
	w := h.New()
	if e.Measured != nil {
		w.Write(e.Measured)
	} else {
		w.Write(e.Data)
	}
	return w.Sum(nil)
}

// Component is a section of the unified kernel image that the simulated machine
// boots, such as ".linux" with its content.
type Component struct {
	Name    string
	Content []byte
}

// Boot has the machine boot the components: it extends the PCRs, of SHA-256 and
// SHA-384, as UEFI firmware and systemd-stub would with Secure Boot off, and
// gives the event log. It is for a TPM that was just started.
func Boot(dev *tpm.Device, components ...Component) (log []byte, err error) {
	return Measure(dev, Events(components...))
}

// PowerOn starts a TPM in the directory, which is made, and boots the components
// on it, for another process to use: the event log is in the file [EventLog] of
// the directory.
func PowerOn(dir string, components ...Component) (*Process, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("swtpm: %w", err)
	}
	p, err := Start(dir)
	if err != nil {
		return nil, err
	}
	if err := p.boot(filepath.Join(dir, EventLog), components); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

// EventLog is the name of the file that [PowerOn] writes.
const EventLog = "event_log"

func (p *Process) boot(file string, components []Component) error {
	dev, err := device.OpenTPM(p.Socket)
	if err != nil {
		return err
	}
	defer dev.Close()
	log, err := Boot(dev, components...)
	if err != nil {
		return err
	}
	return os.WriteFile(file, log, 0o600)
}

// EFI variables that firmware measures, with the GUIDs of their vendors (UEFI
// 2.10 sections 3.3 and 32.6).
var (
	globalVariable = []byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
	imageSecurity  = []byte{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}
)

// Events are those of a boot of the components.
func Events(components ...Component) []Event {
	variable := func(vendor []byte, name string, value ...byte) Event {
		return Event{PCR: 7, Type: tcg.EFIVariableDriverConfig, Data: variableData(vendor, name, value)}
	}
	events := []Event{
		{PCR: 0, Type: tcg.SCRTMVersion, Data: utf16le("holdfast simulated firmware 1")},
		{PCR: 0, Type: tcg.EFIPlatformFirmwareBlob, Data: make([]byte, 16), Measured: []byte("simulated firmware volume")},
		{PCR: 1, Type: tcg.EFIVariableBoot, Data: variableData(globalVariable, "BootOrder", []byte{0, 0})},
		variable(globalVariable, "SecureBoot", 0),
		variable(globalVariable, "PK"),
		variable(globalVariable, "KEK"),
		variable(imageSecurity, "db"),
		variable(imageSecurity, "dbx"),
		{PCR: 7, Type: tcg.Separator, Data: make([]byte, 4)},
		{PCR: 4, Type: tcg.EFIAction, Data: []byte(tcg.CallingEFIApplication)},
	}
	for pcr := range 7 {
		events = append(events, Event{PCR: pcr, Type: tcg.Separator, Data: make([]byte, 4)})
	}
	var image []byte
	for _, c := range components {
		image = fmt.Appendf(image, "%s %d\n%s", c.Name, len(c.Content), c.Content)
	}
	events = append(events,
		Event{PCR: 5, Type: tcg.EFIGPTEvent, Data: []byte("simulated GPT")},
		// In place of the Authenticode hash and the device path.
		Event{PCR: 4, Type: tcg.EFIBootServicesApplication, Data: utf16le(`\EFI\BOOT\BOOTX64.EFI`), Measured: image},
	)
	for _, c := range components { // as systemd-stub does
		name := utf16le(c.Name)
		events = append(events,
			Event{PCR: 11, Type: tcg.Ipl, Data: name, Measured: append([]byte(c.Name), 0)},
			Event{PCR: 11, Type: tcg.Ipl, Data: name, Measured: append([]byte{}, c.Content...)})
	}
	return append(events,
		Event{PCR: 5, Type: tcg.EFIAction, Data: []byte(tcg.ExitBootServicesInvocation)},
		Event{PCR: 5, Type: tcg.EFIAction, Data: []byte("Exit Boot Services Returned with Success")})
}

// Measure extends the PCRs with the events, and gives their log.
func Measure(dev *tpm.Device, events []Event) ([]byte, error) {
	err := dev.Do(func(t transport.TPM) error {
		for i, e := range events {
			var digests tpm2.TPMLDigestValues
			for _, a := range algorithms {
				digests.Digests = append(digests.Digests, tpm2.TPMTHA{HashAlg: a.id, Digest: e.digest(a.hash)})
			}
			if _, err := (tpm2.PCRExtend{PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(e.PCR), Auth: tpm2.PasswordAuth(nil)}, Digests: digests}).Execute(t); err != nil {
				return fmt.Errorf("swtpm: event %d: TPM2_PCR_Extend, PCR %d: %w", i, e.PCR, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return Log(events), nil
}

// algorithms are those of the log, and of the PCR banks.
var algorithms = []struct {
	id   tpm2.TPMIAlgHash
	hash crypto.Hash
}{{tpm2.TPMAlgSHA256, crypto.SHA256}, {tpm2.TPMAlgSHA384, crypto.SHA384}}

// Log gives the event log of the events, in the crypto-agile format (TCG PC
// Client Platform Firmware Profile, section 10.2).
func Log(events []Event) []byte {
	le := binary.LittleEndian
	// TCG_EfiSpecIDEvent: platform class 0, specification 2.0 errata 0, UINTN of 8 bytes.
	spec := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2)
	spec = le.AppendUint32(spec, uint32(len(algorithms)))
	for _, a := range algorithms {
		spec = le.AppendUint16(spec, uint16(a.id))
		spec = le.AppendUint16(spec, uint16(a.hash.Size()))
	}
	spec = append(spec, 0) // no vendor information

	var log []byte
	log = le.AppendUint32(log, 0)
	log = le.AppendUint32(log, uint32(tcg.NoAction))
	log = append(log, make([]byte, 20)...)
	log = le.AppendUint32(log, uint32(len(spec)))
	log = append(log, spec...)
	for _, e := range events {
		log = le.AppendUint32(log, uint32(e.PCR))
		log = le.AppendUint32(log, uint32(e.Type))
		log = le.AppendUint32(log, uint32(len(algorithms)))
		for _, a := range algorithms {
			log = le.AppendUint16(log, uint16(a.id))
			log = append(log, e.digest(a.hash)...)
		}
		log = le.AppendUint32(log, uint32(len(e.Data)))
		log = append(log, e.Data...)
	}
	return log
}

// variableData is a UEFI_VARIABLE_DATA.
func variableData(vendor []byte, name string, value []byte) []byte {
	chars := utf16le(name)
	data := bytes.Clone(vendor)
	data = binary.LittleEndian.AppendUint64(data, uint64(len(chars)/2))
	data = binary.LittleEndian.AppendUint64(data, uint64(len(value)))
	data = append(data, chars...)
	return append(data, value...)
}

func utf16le(s string) []byte {
	var b []byte
	for _, c := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return b
}
