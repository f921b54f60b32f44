// Package snp collects AMD SEV-SNP evidence and checks it offline.
//
// A report that passes [Verify] proves, on the word of AMD, that a guest whose
// memory is encrypted and protected against its host asked for it, on a
// platform with at least the firmware that the policy asks for, and that the
// guest named these 64 bytes of report data. The launch measurement covers what
// was in memory when the guest started: on EC2 that is AWS's firmware and
// nothing else. Kernel and root file system are proved elsewhere (attest/tpm,
// attest/nitro).
//
// Sources: AMD 56860, "SEV Secure Nested Paging Firmware ABI Specification";
// AMD 57230, "Versioned Chip Endorsement Key (VCEK) Certificate and KDS
// Interface Specification".
package snp

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/verify/trust"
)

// maxVEK is the size of the largest certificate of a key, in bytes.
const maxVEK = 8 << 10

// Evidence is what the platform says.
type Evidence struct {
	// Report is the attestation report, 1184 bytes (AMD 56860, table 23).
	Report []byte `json:"report"`
	// VEK is the certificate of the key that signed it, VLEK or VCEK (DER).
	VEK []byte `json:"vek"`
	// CRL is AMD's list of revoked intermediates (DER), if the verifier is to be
	// given one.
	CRL []byte `json:"crl,omitempty"`
}

// Roots are the certificates that chains must end at, by product line.
type Roots struct {
	byLine map[string]*trust.ProductCerts
}

// SimulatedRoots are those of a platform that is none. Whoever passes them on
// trusts whoever made them.
func SimulatedRoots(line string, certs *trust.ProductCerts) *Roots {
	return &Roots{map[string]*trust.ProductCerts{line: certs}}
}

// amdRoots are AMD's, as the library carries them: the root (ARK) and both
// intermediates, ASK for VCEKs and ASVK for VLEKs.
var amdRoots = sync.OnceValues(func() (*Roots, error) {
	roots := &Roots{map[string]*trust.ProductCerts{}}
	for line, bundles := range map[string][2][]byte{
		"Milan": {trust.AskArkMilanVcekBytes, trust.AskArkMilanVlekBytes},
		"Genoa": {trust.AskArkGenoaVcekBytes, trust.AskArkGenoaVlekBytes},
		"Turin": {trust.AskArkTurinVcekBytes, trust.AskArkTurinVlekBytes},
	} {
		var vcek, vlek trust.ProductCerts
		if err := errors.Join(vcek.FromKDSCertBytes(bytes.TrimSpace(bundles[0])), vlek.FromKDSCertBytes(bytes.TrimSpace(bundles[1]))); err != nil {
			return nil, fmt.Errorf("AMD's certificates for %s: %w", line, err)
		}
		if !vcek.Ark.Equal(vlek.Ark) {
			return nil, fmt.Errorf("AMD's certificates for %s have two roots", line)
		}
		roots.byLine[line] = &trust.ProductCerts{Ark: vcek.Ark, Ask: vcek.Ask, Asvk: vlek.Asvk}
		if roots.byLine[line].Asvk == nil { // the library takes the ASVK for an ASK
			roots.byLine[line].Asvk = vlek.Ask
		}
	}
	return roots, nil
})

// chain gives intermediate and root for a product line and kind of key.
func (r *Roots) chain(line string, kind signer) (intermediate, root *x509.Certificate, err error) {
	certs := r.byLine[line]
	if certs == nil || certs.Ark == nil {
		return nil, nil, fmt.Errorf("no root is known for the product %s: this program knows AMD's for %s", line, known())
	}
	switch kind {
	case vcek:
		intermediate = certs.Ask
	case vlek:
		intermediate = certs.Asvk
	}
	if intermediate == nil {
		return nil, nil, fmt.Errorf("no intermediate certificate is known for product %s and a key that is %v", line, kind)
	}
	return intermediate, certs.Ark, nil
}

// Provider asks the platform for a report; those of go-sev-guest's client are
// some (attest/device opens them).
type Provider interface {
	GetRawQuoteAtLevel(reportData [64]byte, vmpl uint) ([]uint8, error)
}

// Collect asks for a report with the report data, from VMPL 0, and takes the
// certificate of its key from the table that comes with it.
func Collect(p Provider, reportData [64]byte) (*Evidence, error) {
	raw, err := p.GetRawQuoteAtLevel(reportData, 0)
	if err != nil {
		return nil, fmt.Errorf("SEV-SNP report: %w", err)
	}
	if len(raw) < reportBytes {
		return nil, fmt.Errorf("SEV-SNP report: the device gave %d bytes, a report has %d", len(raw), reportBytes)
	}
	e := &Evidence{Report: raw[:reportBytes:reportBytes]}
	var table abi.CertTable
	if err := table.Unmarshal(raw[reportBytes:]); err != nil {
		return nil, fmt.Errorf("SEV-SNP report: certificate table: %w", err)
	}
	r, err := readReport(e.Report)
	if err != nil {
		return nil, fmt.Errorf("SEV-SNP report: %w", err)
	}
	guid := map[signer]string{vcek: abi.VcekGUID, vlek: abi.VlekGUID}[r.kind]
	if guid == "" {
		return nil, fmt.Errorf("SEV-SNP report: it is signed by a key that is %v; this program knows VCEK and VLEK", r.kind)
	}
	if e.VEK, err = table.GetByGUIDString(guid); err != nil {
		return nil, fmt.Errorf("SEV-SNP report: it is signed by a %v, whose certificate the host does not give: %w", r.kind, err)
	}
	return e, nil
}
