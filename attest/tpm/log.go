package tpm

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/google/go-eventlog/tcg"
)

// event is one of the firmware's log, with its digest for one bank. Only PCR and
// Digest are measured: the type and the data are what the log says they are.
type event struct {
	PCR    int
	Type   tcg.EventType
	Digest []byte
	Data   []byte
}

// parseLog reads a firmware event log in the crypto-agile format (PFP section
// 10.2), for one bank. It checks nothing against PCRs.
func parseLog(raw []byte, b *bank) ([]event, error) {
	if len(raw) > MaxEventLog {
		return nil, fmt.Errorf("it has %d bytes, of which it may have %d", len(raw), MaxEventLog)
	}
	if err := checkSpecID(raw); err != nil {
		return nil, err
	}
	return guard(func() ([]event, error) {
		log, err := tcg.ParseEventLog(raw, tcg.ParseOpts{})
		if err != nil {
			return nil, fmt.Errorf("it ends early, or is damaged: %w", err)
		}
		if !slices.Contains(log.Algs, b.log) {
			return nil, fmt.Errorf("it has no %s digests, which the policy asks for: it has %v", b.name, log.Algs)
		}
		var events []event
		for i, e := range log.Events(b.log) {
			if e.Type == tcg.NoAction { // says something, extends nothing
				if e.Index == 0 && isLocality(e.Data) {
					events = append(events, event{Type: e.Type, Data: e.Data})
				}
				continue
			}
			if e.Index < 0 || e.Index > maxPCR {
				return nil, fmt.Errorf("event %d names PCR %d; a TPM has 0 to %d", i, e.Index, maxPCR)
			}
			if len(e.Digest) != b.hash.Size() {
				return nil, fmt.Errorf("event %d, of PCR %d, has no %s digest", i, e.Index, b.name)
			}
			events = append(events, event{e.Index, e.Type, e.Digest, e.Data})
		}
		return events, nil
	})
}

// digestSizes are the sizes of the digests that a log may have, by algorithm
// (TCG Algorithm Registry).
var digestSizes = map[uint16]uint16{
	0x0004: 20, // SHA-1
	0x000b: 32, // SHA-256
	0x000c: 48, // SHA-384
	0x000d: 64, // SHA-512
	0x0012: 32, // SM3-256
	0x0027: 32, // SHA3-256
	0x0028: 48, // SHA3-384
	0x0029: 64, // SHA3-512
}

// checkSpecID checks the first event, which says which digests the others have
// (PFP section 10.4.5.1). The library believes it: it would take any number of
// algorithms, the same one twice, or another one whose number ends alike.
func checkSpecID(raw []byte) error {
	const (
		header = 4 + 4 + 20 + 4 // PCR, type, SHA-1 digest, size
		count  = header + 16 + 4 + 4
		list   = count + 4
	)
	if len(raw) < list || !bytes.HasPrefix(raw[header:], []byte("Spec ID Event03\x00")) {
		return errors.New("it does not begin with the Spec ID event of a TPM 2.0; logs of TPM 1.2, with SHA-1 alone, prove nothing")
	}
	n := binary.LittleEndian.Uint32(raw[count:])
	if n == 0 || n > uint32(len(digestSizes)) || len(raw) < list+int(n)*4 {
		return fmt.Errorf("its Spec ID event names %d algorithms, not 1 to %d", n, len(digestSizes))
	}
	seen := map[uint16]bool{}
	for i := range int(n) {
		alg, size := binary.LittleEndian.Uint16(raw[list+i*4:]), binary.LittleEndian.Uint16(raw[list+i*4+2:])
		if digestSizes[alg] != size || size == 0 || seen[alg] {
			return fmt.Errorf("its Spec ID event names the algorithm %#x, with digests of %d bytes, which is none or is there twice", alg, size)
		}
		seen[alg] = true
	}
	return nil
}

// isLocality is whether an EV_NO_ACTION event says from which locality the TPM
// was started (PFP section 10.4.5.3).
func isLocality(data []byte) bool {
	return len(data) == 17 && bytes.HasPrefix(data, []byte("StartupLocality\x00"))
}

// replay gives the value of each PCR that has events, after all of them. PCRs
// begin with zero, but that PCR 0 ends with the locality from which the TPM was
// started.
func replay(events []event, h crypto.Hash) map[int][]byte {
	values := map[int][]byte{}
	locality := byte(0)
	for _, e := range events {
		if e.Type == tcg.NoAction {
			if values[0] == nil {
				locality = e.Data[len(e.Data)-1]
			}
			continue
		}
		if values[e.PCR] == nil {
			values[e.PCR] = make([]byte, h.Size())
			if e.PCR == 0 {
				values[0][h.Size()-1] = locality
			}
		}
		values[e.PCR] = extend(h, values[e.PCR], e.Digest)
	}
	return values
}

// checkReplay compares what the log comes to with what was quoted.
func checkReplay(replayed map[int][]byte, quoted map[int]Hex) (same []int, err error) {
	var wrong []string
	for _, n := range slices.Sorted(maps.Keys(replayed)) {
		value, ok := quoted[n]
		switch {
		case !ok || n > lastStaticPCR || n == ApplicationPCR:
		case bytes.Equal(value, replayed[n]):
			same = append(same, n)
		default:
			wrong = append(wrong, fmt.Sprintf("PCR %d replays to %s, and %s was quoted", n, short(replayed[n]), short(value)))
		}
	}
	if wrong != nil {
		return nil, fmt.Errorf("%s: an event was dropped, edited or moved, or something was extended that the log does not have", strings.Join(wrong, "; "))
	}
	if same == nil {
		return nil, errors.New("the log and the quote have no PCR in common")
	}
	return same, nil
}

// checkCoverage checks that the log explains the PCRs of the firmware (0 to 7)
// that were quoted, and those that are required, but for those that measurements
// explain.
func checkCoverage(replayed map[int][]byte, quoted map[int]Hex, required []int) error {
	var missing []int
	for _, n := range slices.Sorted(maps.Keys(quoted)) {
		if (n < 8 || slices.Contains(required, n)) && n != ApplicationPCR && !isSingle(n) && replayed[n] == nil && !zero(quoted[n]) {
			missing = append(missing, n)
		}
	}
	if missing != nil {
		return fmt.Errorf("PCRs %v were extended, and the log has no event of theirs: it was cut, or they were extended after the boot", missing)
	}
	return nil
}

// checkSeparators checks that each of the firmware's PCRs has the one separator
// that ends what is measured before the operating system (PFP section 3.3.2.2).
// What counts is its digest, which is measured; the type must agree.
func checkSeparators(events []event, h crypto.Hash) error {
	good := [][]byte{sum(h, []byte{0, 0, 0, 0}), sum(h, []byte{0xff, 0xff, 0xff, 0xff})}
	var count [8]int
	for i, e := range events {
		if e.PCR >= len(count) {
			continue
		}
		is := slices.ContainsFunc(good, func(d []byte) bool { return bytes.Equal(d, e.Digest) })
		if is != (e.Type == tcg.Separator) {
			return fmt.Errorf("event %d, of PCR %d, is %s with a digest that says otherwise: the firmware had an error, or the log was edited", i, e.PCR, e.Type.TCGString())
		}
		if is {
			count[e.PCR]++
		}
	}
	for n, c := range count {
		if c != 1 {
			return fmt.Errorf("PCR %d has %d separators, not one: where firmware ends and the operating system begins is not known", n, c)
		}
	}
	return nil
}

// text is what an event's data says to people, if it is what was measured.
func (e event) text(h crypto.Hash) string {
	if !bytes.Equal(sum(h, e.Data), e.Digest) {
		return ""
	}
	switch e.Type {
	case tcg.EFIAction, tcg.Action:
		return printable(string(e.Data))
	case tcg.EFIVariableDriverConfig, tcg.EFIVariableAuthority, tcg.EFIVariableBoot, tcg.EFIVariableBoot2:
		return variable(e.Data)
	}
	return ""
}

// variable is the name of an EFI variable, with its value if that is one byte
// (PFP section 10.2.6, UEFI_VARIABLE_DATA).
func variable(data []byte) string {
	const header = 16 + 8 + 8 // GUID, characters in the name, bytes in the value
	if len(data) < header {
		return ""
	}
	n, rest := binary.LittleEndian.Uint64(data[16:]), data[header:]
	if n > 64 || uint64(len(rest)) < 2*n {
		return ""
	}
	name := make([]uint16, n)
	for i := range name {
		name[i] = binary.LittleEndian.Uint16(rest[2*i:])
	}
	s := printable(string(utf16.Decode(name)))
	if value := rest[2*n:]; len(value) == 1 {
		s += fmt.Sprintf(" = %d", value[0])
	}
	return s
}

// printable is what of the string is safe to show, shortened.
func printable(s string) string {
	const most = 100
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	return s[:min(len(s), most)]
}

func zero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }
func ones(b []byte) bool { return len(bytes.TrimLeft(b, "\xff")) == 0 }
func short(b []byte) string {
	return fmt.Sprintf("%x…", b[:min(len(b), 8)])
}

// Event is one entry of the firmware's log, for people.
type Event struct {
	Number int    `json:"number" jsonschema:"The number of the event in the log."`
	PCR    int    `json:"pcr" jsonschema:"The PCR that the event was measured into."`
	Type   string `json:"type" jsonschema:"The type of the event, as the TCG names it."`
	Digest Hex    `json:"digest" jsonschema:"The digest that was measured, in hexadecimal."`
	// Text says what was measured, if the event's data can be read and is what was
	// measured; empty otherwise.
	Text string `json:"text,omitempty" jsonschema:"What was measured, if the event's data says so and matches its digest."`
}

// Events reads the firmware's log, with the digests of the strongest bank that
// was quoted. It is only as true as Verify finds it to be.
func (e *Evidence) Events() ([]Event, error) {
	for _, name := range []string{"sha384", "sha256"} {
		b, err := findBank(name)
		if err != nil || e.PCRs[name] == nil {
			continue
		}
		log, err := parseLog(e.EventLog, b)
		if err != nil {
			return nil, fmt.Errorf("the event log: %w", err)
		}
		events := make([]Event, 0, len(log))
		for i, l := range log {
			if l.Digest != nil {
				events = append(events, Event{Number: i, PCR: l.PCR, Type: l.Type.TCGString(), Digest: Hex(l.Digest), Text: l.text(b.hash)})
			}
		}
		return events, nil
	}
	return nil, errors.New("the event log: the quote is of no bank that is known")
}
