package tpm

import (
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
)

// UnmarshalJSON implements [json.Unmarshaler]. Each PCR has one name: 4, not 04 or +4.
func (p *PCRs) UnmarshalJSON(text []byte) error {
	var read map[string]map[uint8]Hex // uint8: -0 would be a second name of 0
	if err := json.Unmarshal(text, &read); err != nil {
		return err
	}
	values := PCRs{}
	for name, bank := range read {
		values[name] = map[int]Hex{}
		for n, value := range bank {
			values[name][int(n)] = value
		}
	}
	*p = values
	return nil
}

// ParsePCRs reads PCR values as a JSON object: {"sha384": {"4": "hex"}}. It refuses what
// can be read in two ways: a name that stands twice, also as 4 and 04; a bank or a PCR that
// there is not; null; and anything that follows.
func ParsePCRs(text []byte) (PCRs, error) {
	var p PCRs
	if err := json.Unmarshal(text, &p); err != nil {
		return nil, fmt.Errorf("PCR values: %w", err)
	}
	if len(p) == 0 {
		return nil, errors.New(`PCR values: there are none; write {"sha384": {"4": "hex"}}`)
	}
	for name, bank := range p {
		b, err := findBank(name)
		if name == "sha1" {
			b, err = nil, nil // quotes may have it, which the verdict then says
		}
		if err != nil {
			return nil, fmt.Errorf("PCR values: %w", err)
		}
		if len(bank) == 0 {
			return nil, fmt.Errorf("PCR values: the bank %s has none", name)
		}
		for n, value := range bank {
			switch {
			case n > maxPCR:
				return nil, fmt.Errorf("PCR values: there is no PCR %d; a TPM has 0 to %d", n, maxPCR)
			case len(value) == 0 || (b != nil && len(value) != b.hash.Size()):
				return nil, fmt.Errorf("PCR values: PCR %d of the bank %s has %d bytes", n, name, len(value))
			}
		}
	}
	return p, nil
}
