package predict

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"unicode/utf16"
)

// MaxVariable is how many bytes a variable of Secure Boot may have. The largest
// dbx in use is a tenth of that.
const MaxVariable = 256 << 10

// SecureBoot is the variables of a machine that has Secure Boot switched on, each
// a sequence of EFI signature lists (UEFI 2.10, section 32.4.1). KEK and DBX may be
// empty.
type SecureBoot struct {
	PK, KEK, DB, DBX []byte
}

// ReadSecureBoot reads PK.esl, KEK.esl, db.esl and dbx.esl of a folder, as
// cert-to-efi-sig-list and AWS's uefi_data tools write them. A file that is
// missing is an empty variable.
func ReadSecureBoot(dir string) (*SecureBoot, error) {
	s := new(SecureBoot)
	for _, v := range []struct {
		name     string
		content  *[]byte
		required bool
	}{{"PK", &s.PK, true}, {"KEK", &s.KEK, false}, {"db", &s.DB, true}, {"dbx", &s.DBX, false}} {
		path := filepath.Join(dir, v.name+".esl")
		content, err := readVariable(path)
		if err != nil {
			return nil, err
		}
		if len(content) == 0 && v.required {
			return nil, fmt.Errorf("%s is missing or empty: without it there is no Secure Boot, or nothing that it would boot", path)
		}
		if _, err := parseESL(content); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		*v.content = content
	}
	return s, nil
}

func readVariable(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, MaxVariable+1))
	if err == nil && len(content) > MaxVariable {
		err = fmt.Errorf("%s has more than %d bytes", path, MaxVariable)
	}
	return content, err
}

// guid is in the order of bytes that UEFI has.
type guid [16]byte

// newGUID gives the GUID a-b-c-rest.
func newGUID(a uint32, b, c uint16, rest [8]byte) (g guid) {
	binary.LittleEndian.PutUint32(g[:], a)
	binary.LittleEndian.PutUint16(g[4:], b)
	binary.LittleEndian.PutUint16(g[6:], c)
	copy(g[8:], rest[:])
	return g
}

// GUIDs of UEFI 2.10: sections 3.3 and 32.4.1.
var (
	globalVariable = newGUID(0x8be4df61, 0x93ca, 0x11d2, [8]byte{0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c})
	imageSecurity  = newGUID(0xd719b2cb, 0x3d3a, 0x4596, [8]byte{0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f})
	listX509       = newGUID(0xa5c059a1, 0x94e4, 0x4aa7, [8]byte{0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72})
	listSHA256     = newGUID(0xc1c41626, 0x504c, 0x4092, [8]byte{0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28})
	listX509SHA256 = newGUID(0x3bd2a492, 0x96c0, 0x4079, [8]byte{0xb4, 0x20, 0xfc, 0xf9, 0x8e, 0xf1, 0x03, 0xed})
)

// eslEntry is one signature of a list: EFI_SIGNATURE_DATA.
type eslEntry struct {
	kind guid
	raw  []byte // owner and data
}

// data is the entry without its owner.
func (e eslEntry) data() []byte { return e.raw[16:] }

// parseESL reads a sequence of signature lists.
func parseESL(raw []byte) ([]eslEntry, error) {
	const header = 16 + 4 + 4 + 4
	wrong := errors.New("it is no sequence of EFI signature lists, or is cut off; give the variable's content without its attributes and its signature")
	var entries []eslEntry
	for len(raw) > 0 {
		if len(raw) < header {
			return nil, wrong
		}
		kind := guid(raw)
		list, skip, size := int64(binary.LittleEndian.Uint32(raw[16:])), int64(binary.LittleEndian.Uint32(raw[20:])), int64(binary.LittleEndian.Uint32(raw[24:]))
		if list > int64(len(raw)) || header+skip > list || size <= 16 || (list-header-skip)%size != 0 {
			return nil, wrong
		}
		for rest := raw[header+skip : list]; len(rest) > 0; rest = rest[size:] {
			entries = append(entries, eslEntry{kind, rest[:size]})
		}
		raw = raw[list:]
	}
	return entries, nil
}

// pcr7 is what firmware measures of Secure Boot (PFP section 3.3.4.8, "PCR[7] -
// Secure Boot Policy Measurements"): its variables, a separator and, if it is on,
// the entry of db that says that the unified kernel image may boot. Without Secure
// Boot (nil) the variables are empty, as on a machine that has no keys.
func (u *uki) pcr7(h crypto.Hash, s *SecureBoot) ([]byte, error) {
	on := []byte{1}
	var authority []byte
	if s == nil {
		s, on = &SecureBoot{}, []byte{0}
	} else {
		var err error
		if authority, err = u.authority(s); err != nil {
			return nil, err
		}
	}
	c := newChain(h)
	c.measure(variableData(globalVariable, "SecureBoot", on))
	c.measure(variableData(globalVariable, "PK", s.PK))
	c.measure(variableData(globalVariable, "KEK", s.KEK))
	c.measure(variableData(imageSecurity, "db", s.DB))
	c.measure(variableData(imageSecurity, "dbx", s.DBX))
	c.measure(separator)
	if authority != nil {
		c.measure(variableData(imageSecurity, "db", authority))
	}
	return c.value, nil
}

// variableData is UEFI_VARIABLE_DATA (PFP section 10.2.6), which is what is hashed
// of a variable.
func variableData(vendor guid, name string, content []byte) []byte {
	characters := utf16.Encode([]rune(name))
	b := bytes.Clone(vendor[:])
	b = binary.LittleEndian.AppendUint64(b, uint64(len(characters)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(content)))
	for _, c := range characters {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return append(b, content...)
}

// authority gives the entry of db by which firmware lets the unified kernel image
// boot: of the first signature for which there is one, the first certificate that
// is the signer's or issued it.
func (u *uki) authority(s *SecureBoot) ([]byte, error) {
	signatures, err := u.pe.signatures()
	if err != nil {
		return nil, err
	}
	if len(signatures) == 0 {
		return nil, errors.New("the unified kernel image is not signed, so that Secure Boot refuses it; sign it with sbsign")
	}
	db, err := parseESL(s.DB)
	if err != nil {
		return nil, fmt.Errorf("db: %w", err)
	}
	dbx, err := parseESL(s.DBX)
	if err != nil {
		return nil, fmt.Errorf("dbx: %w", err)
	}
	digest := u.pe.authenticode(crypto.SHA256)
	for _, der := range signatures {
		chain, err := verifySignature(der, digest)
		if err != nil {
			return nil, fmt.Errorf("the signature of the unified kernel image: %w", err)
		}
		if err := forbidden(dbx, chain, digest); err != nil {
			return nil, err
		}
		for _, e := range db {
			if e.kind == listX509 && vouches(e.data(), chain) {
				return e.raw, nil
			}
		}
	}
	return nil, errors.New("db has no certificate that signed the unified kernel image, so that Secure Boot refuses it; sign it with a key of db")
}

// forbidden is whether dbx forbids the image, or one of the certificates.
func forbidden(dbx []eslEntry, chain []*x509.Certificate, digest []byte) error {
	for _, e := range dbx {
		if e.kind == listSHA256 && bytes.Equal(e.data(), digest) {
			return errors.New("dbx forbids the unified kernel image by its hash")
		}
		for _, c := range chain {
			tbs := sha256.Sum256(c.RawTBSCertificate)
			if e.kind == listX509 && bytes.Equal(e.data(), c.Raw) || e.kind == listX509SHA256 && bytes.HasPrefix(e.data(), tbs[:]) {
				return fmt.Errorf("dbx forbids the certificate of %.100q, which the unified kernel image is signed under", c.Subject)
			}
		}
	}
	return nil
}

// vouches is whether the certificate is one of the chain, or issued its last.
func vouches(der []byte, chain []*x509.Certificate) bool {
	for _, c := range chain {
		if bytes.Equal(c.Raw, der) {
			return true
		}
	}
	issuer, err := x509.ParseCertificate(der)
	if err != nil {
		return false // firmware cannot use it either
	}
	for _, c := range chain {
		if c.CheckSignatureFrom(issuer) == nil {
			return true
		}
	}
	return false
}
