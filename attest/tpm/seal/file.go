package seal

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"
)

// The formats of the files, with their versions.
const (
	AuthorizationsFormat = "holdfast-authorizations/v1"
	SuccessionsFormat    = "holdfast-successions/v1"
	BlobFormat           = "holdfast-sealed/v2"
	GatedFormat          = "holdfast-sealed-gated/v1"
	// blobFormatV1 is that of releases which did not have the TPM prove how it was made.
	blobFormatV1 = "holdfast-sealed/v1"
)

// Sizes in bytes, and counts, of what the files may have. What TPMs make is well
// below.
const (
	MaxAuthorizationsFile = 1 << 20
	MaxAuthorizations     = 2000 // two for each reference of a policy
	MaxSuccessionsFile    = 16 << 10
	MaxSuccessions        = 16
	MaxBlobFile           = 32 << 10

	maxName   = 200 // as of a policy's references
	maxObject = 2 << 10
)

type authorizationsFile struct {
	Format         string          `json:"format"`
	Authorizations []Authorization `json:"authorizations"`
}

func (f *authorizationsFile) validate() error {
	if f.Format != AuthorizationsFormat {
		return fmt.Errorf("the format is %.80q, and this program reads %q", f.Format, AuthorizationsFormat)
	}
	if n := len(f.Authorizations); n == 0 || n > MaxAuthorizations {
		return fmt.Errorf("there are %d, not 1 to %d", n, MaxAuthorizations)
	}
	for i := range f.Authorizations {
		a := &f.Authorizations[i]
		if err := a.validate(); err != nil {
			return fmt.Errorf("authorizations[%d]: %w", i, err)
		}
		if slices.ContainsFunc(f.Authorizations[:i], func(o Authorization) bool { return o.Name == a.Name && o.Use == a.Use && o.By == a.By }) {
			return fmt.Errorf("authorizations[%d]: the name %q is used twice for the %s", i, a.Name, a.Use)
		}
	}
	return nil
}

// validate says whether the authorization could be good. Whether the signature
// is, [Authorization.Verify] says.
func (a *Authorization) validate() error {
	if a.Name == "" || len(a.Name) > maxName {
		return fmt.Errorf("the name has %d bytes, not 1 to %d", len(a.Name), maxName)
	}
	if a.Version == 0 {
		return errors.New("the version is missing; versions begin with 1")
	}
	if err := errors.Join(a.Use.validate(), a.checkSigner()); err != nil {
		return fmt.Errorf("%q: %w", a.Name, err)
	}
	if _, _, err := a.selection(); err != nil {
		return err
	}
	if _, _, err := parseSignature(a.Signature); err != nil {
		return fmt.Errorf("the signature of %q: %w", a.Name, err)
	}
	return nil
}

// checkSigner says what the authorizations of a signer must have.
func (a *Authorization) checkSigner() error {
	switch _, launch := a.PCRs[LaunchPCR]; {
	case a.By != Publisher && a.By != Owner:
		return fmt.Errorf("the signer %.80q is none that this program knows: leave it out for the publisher, or %q", string(a.By), Owner)
	case a.By == Owner && !launch:
		return fmt.Errorf("an owner's authorization names PCR %d, which has the launch file that the owner has chosen", LaunchPCR)
	}
	return nil
}

func (u Use) validate() error {
	if u != Credential && u != StateVolume {
		return fmt.Errorf("the use %.80q is none that this program knows: leave it out for the credential, or %q", string(u), StateVolume)
	}
	return nil
}

// ParseAuthorizations reads a file of authorizations. It refuses unknown and
// duplicate names, another format, and what no TPM could be asked about. It
// checks no signature: that does [Unseal].
func ParseAuthorizations(text []byte) ([]Authorization, error) {
	var f authorizationsFile
	if err := decode(text, MaxAuthorizationsFile, &f); err != nil {
		return nil, fmt.Errorf("authorizations: %w", err)
	}
	if err := f.validate(); err != nil {
		return nil, fmt.Errorf("authorizations: %w", err)
	}
	return f.Authorizations, nil
}

// EncodeAuthorizations gives the file of the authorizations.
func EncodeAuthorizations(authorizations []Authorization) ([]byte, error) {
	f := authorizationsFile{AuthorizationsFormat, authorizations}
	if err := f.validate(); err != nil {
		return nil, fmt.Errorf("authorizations: %w", err)
	}
	text, err := encode(f, MaxAuthorizationsFile)
	if err != nil {
		return nil, fmt.Errorf("authorizations: %w", err)
	}
	return text, nil
}

type successionsFile struct {
	Format      string       `json:"format"`
	Successions []Succession `json:"successions"`
}

func (f *successionsFile) validate() error {
	if f.Format != SuccessionsFormat {
		return fmt.Errorf("the format is %.80q, and this program reads %q", f.Format, SuccessionsFormat)
	}
	if n := len(f.Successions); n == 0 || n > MaxSuccessions {
		return fmt.Errorf("there are %d, not 1 to %d", n, MaxSuccessions)
	}
	for i, s := range f.Successions {
		if err := s.Use.validate(); err != nil {
			return fmt.Errorf("successions[%d]: %w", i, err)
		}
		if _, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), s.Next); err != nil {
			return fmt.Errorf("successions[%d]: next is no point on P-256", i)
		}
		if _, _, err := parseSignature(s.Signature); err != nil {
			return fmt.Errorf("successions[%d]: the signature: %w", i, err)
		}
	}
	return nil
}

// ParseSuccessions reads a file of successions. It checks no signature: that does [Way].
func ParseSuccessions(text []byte) ([]Succession, error) {
	var f successionsFile
	if err := decode(text, MaxSuccessionsFile, &f); err != nil {
		return nil, fmt.Errorf("successions: %w", err)
	}
	if err := f.validate(); err != nil {
		return nil, fmt.Errorf("successions: %w", err)
	}
	return f.Successions, nil
}

// EncodeSuccessions gives the file of the successions.
func EncodeSuccessions(successions []Succession) ([]byte, error) {
	f := successionsFile{SuccessionsFormat, successions}
	if err := f.validate(); err != nil {
		return nil, fmt.Errorf("successions: %w", err)
	}
	text, err := encode(f, MaxSuccessionsFile)
	if err != nil {
		return nil, fmt.Errorf("successions: %w", err)
	}
	return text, nil
}

type blobFile struct {
	Format string `json:"format"`
	Blob
}

func (b *Blob) validate() error {
	for _, part := range []struct {
		name string
		size int
	}{{"public", len(b.Public)}, {"private", len(b.Private)}, {"parent", len(b.Parent)}} {
		if part.size == 0 || part.size > maxObject {
			return fmt.Errorf("%s has %d bytes, not 1 to %d", part.name, part.size, maxObject)
		}
	}
	if _, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), b.SigningKey); err != nil {
		return errors.New("signing_key is no point on P-256")
	}
	if b.Made == nil {
		return errors.New("made is missing: nothing proves how the object was made")
	}
	if err := b.Made.CheckSize(); err != nil {
		return fmt.Errorf("made: %w", err)
	}
	return b.Use.validate()
}

// formatOf gives the format that the text names, empty if it cannot be read.
func formatOf(text []byte) string {
	var f struct {
		Format string `json:"format"`
	}
	if len(text) > MaxBlobFile || json.Unmarshal(text, &f) != nil {
		return ""
	}
	return f.Format
}

// ParseBlob reads the file of a sealed secret. It refuses unknown and duplicate
// names, another format, and values of impossible sizes. Errors: [ErrBound], of a
// secret that is sealed to a state volume as well.
func ParseBlob(text []byte) (*Blob, error) {
	if formatOf(text) == BoundFormat {
		return nil, ErrBound
	}
	var f blobFile
	if err := decode(text, MaxBlobFile, &f); err != nil {
		return nil, fmt.Errorf("sealed blob: %w", err)
	}
	if f.Format == blobFormatV1 {
		return nil, errors.New("sealed blob: an earlier release made it, which did not have the TPM prove how it was made; seal the secret again")
	}
	if f.Format != BlobFormat {
		return nil, fmt.Errorf("sealed blob: the format is %.80q, and this program reads %q", f.Format, BlobFormat)
	}
	if err := f.validate(); err != nil {
		return nil, fmt.Errorf("sealed blob: %w", err)
	}
	return &f.Blob, nil
}

// Encode gives the file of the sealed secret.
func (b *Blob) Encode() ([]byte, error) {
	if err := b.validate(); err != nil {
		return nil, fmt.Errorf("sealed blob: %w", err)
	}
	text, err := encode(blobFile{BlobFormat, *b}, MaxBlobFile)
	if err != nil {
		return nil, fmt.Errorf("sealed blob: %w", err)
	}
	return text, nil
}

// decode reads one JSON value strictly: no unknown, no duplicate names.
func decode(text []byte, most int, into any) error {
	if len(text) > most {
		return fmt.Errorf("the file has more than %d bytes", most)
	}
	return json.Unmarshal(text, into, json.RejectUnknownMembers(true))
}

func encode(v any, most int) ([]byte, error) {
	text, err := json.Marshal(v, json.Deterministic(true))
	if err == nil && len(text) > most {
		err = fmt.Errorf("%d bytes, of which a file may have %d", len(text), most)
	}
	return text, err
}
