package launch

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"

	"holdfast/appliance/config"
	"holdfast/attest"
	"holdfast/attest/owner"
)

// Format names the launch file, and its version.
const Format = "holdfast-launch/v1"

// MaxFile is the size of the largest launch file, in bytes.
const MaxFile = owner.MaxFile

// document is a launch file as TOML has it.
type document struct {
	Format string `toml:"format"`
	Owner  struct {
		PolicyKey string `toml:"policy_key"`
		SealKey   string `toml:"seal_key"`
	} `toml:"owner"`
	config.Config
}

// File is a launch file that was read.
type File struct {
	// PolicyKey is the owner's: it signs the launch file. SealKey is the owner's for what
	// TPMs verify.
	PolicyKey ed25519.PublicKey
	SealKey   *ecdsa.PublicKey
	// certificates are those in the file (PEM), by the option that names their file.
	certificates map[string]string
	part         *config.Config
}

// module is the name of a PKCS#11 library in the image's folder of modules.
var module = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$`)

// stands is a path in the place of what comes later.
const stands = "/launch/"

// Parse reads a launch file; name stands for it in problems. Errors: [config.Problems],
// with all that is wrong, each with its line and what to do.
func Parse(name string, text []byte) (*File, error) {
	if len(text) > MaxFile {
		return nil, config.Problems{{File: name, Message: fmt.Sprintf("it has %d bytes, of which a launch file may have %d; shorten it, of which certificates take the most", len(text), MaxFile)}}
	}
	if at := privateKey.FindIndex(text); at != nil {
		return nil, config.Problems{{File: name, Line: 1 + strings.Count(string(text[:at[0]]), "\n"), Message: "a private key stands here, and many can read a launch file; take it out, and make another key in its place"}}
	}
	f := &File{certificates: map[string]string{}}
	part, err := config.ParsePart(name, text, config.Part{
		Document: func() (any, *config.Config) {
			d := new(document)
			return d, &d.Config
		},
		Refuse: func(key string) string { return byKey[key].Refused },
		Read:   func(d any, wrong func(key, message string)) { f.read(d.(*document), wrong) },
	})
	if err != nil {
		return nil, err
	}
	f.part = part
	return f, nil
}

var privateKey = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY`)

// read takes what the configuration has in other words.
func (f *File) read(d *document, wrong func(key, message string)) {
	if d.Format != Format {
		wrong("format", fmt.Sprintf("it is %.40q, and this program reads %q; write format = %q", d.Format, Format, Format))
	}
	key, err := publicKey(d.Owner.PolicyKey)
	if ed, ok := key.(ed25519.PublicKey); err == nil && !ok {
		err = errors.New("it is not a key of Ed25519")
	} else {
		f.PolicyKey = ed
	}
	if err != nil {
		wrong("owner.policy_key", err.Error()+"; put what is in the file .pub of holdfast policy key between three quotes")
	}
	key, err = publicKey(d.Owner.SealKey)
	if p256, ok := key.(*ecdsa.PublicKey); err == nil && (!ok || p256.Curve != elliptic.P256()) {
		err = errors.New("it is not a key of ECDSA on P-256")
	} else {
		f.SealKey = p256
	}
	if err != nil {
		wrong("owner.seal_key", err.Error()+"; put what is in the file .pub of holdfast policy key --seal between three quotes")
	}
	f.readModules(&d.HSM, wrong)
	readPorts(&d.HSM, wrong)
	for _, s := range settings {
		if value := at(&d.Config, s.Key); s.Certificates && value.String() != "" {
			if err := checkCertificates(value.String()); err != nil {
				wrong(s.Key, err.Error())
			}
			f.certificates[s.Key] = value.String()
			value.SetString(stands + s.Key)
		}
	}
}

// readModules puts paths in the place of the modules' names.
func (f *File) readModules(h *config.HSM, wrong func(key, message string)) {
	if h.Module == "" {
		wrong("hsm.module", "it is missing: the name of the HSM vendor's PKCS#11 library in the image's folder of modules")
	}
	if h.TokenLabel == "" && h.TokenSerial == "" {
		h.TokenLabel = "missing" // said once, here
		wrong("hsm.token_label", "it is missing: that or hsm.token_serial selects the token")
	}
	name := func(key string, value *string) {
		if *value == "" {
			return
		}
		if !module.MatchString(*value) {
			wrong(key, fmt.Sprintf("%q is not the name of a file in the image's folder of modules, such as libpkcs11.so; a launch file has no paths", *value))
		}
		*value = stands + filepath.Base(*value)
	}
	name("hsm.module", &h.Module)
	for i := range h.Members {
		name("hsm.members.module", &h.Members[i].Module)
	}
	if h.Module == "" {
		h.Module = stands + "missing"
	}
}

// readPorts refuses an empty list: in the configuration it stands for all ports, which the image may
// have closed.
func readPorts(h *config.HSM, wrong func(key, message string)) {
	look := func(key string, p config.Process) {
		if p.Ports != nil && len(p.Ports) == 0 {
			wrong(key, "it is empty, which would open all TCP ports to the module; name those of the HSM, or leave it out")
		}
	}
	look("hsm.process.ports", h.Process)
	for _, m := range h.Members {
		look("hsm.members.process.ports", m.Process)
	}
}

func publicKey(text string) (any, error) {
	if text == "" {
		return nil, errors.New("it is missing: the owner's public key in PEM")
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "PUBLIC KEY" || strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("it is not one public key in PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("it is no public key that can be read: %w", err)
	}
	return key, nil
}

const maxCertificates = 8

func checkCertificates(text string) error {
	const instead = "; put the certificates in PEM between three quotes, and not the name of their file"
	rest := []byte(text)
	for n := 0; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if n == 0 || strings.TrimSpace(string(rest)) != "" {
				return errors.New("it is no certificate in PEM, or something else stands behind one" + instead)
			}
			return nil
		}
		if n == maxCertificates {
			return fmt.Errorf("it has more than %d certificates; keep those of the authorities", maxCertificates)
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("it has a block %.40q"+instead, block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("certificate %d cannot be read: %w", n+1, err)
		}
	}
}

// at is the value of an option, by its dotted key.
func at(c *config.Config, key string) reflect.Value {
	v := reflect.ValueOf(c).Elem()
	for name := range strings.SplitSeq(key, ".") {
		if v.Kind() != reflect.Struct {
			return reflect.ValueOf("")
		}
		v = v.FieldByNameFunc(func(field string) bool {
			f, _ := v.Type().FieldByName(field)
			tag, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
			return tag == name
		})
	}
	return v
}

// ErrOwner says that a launch file names other keys of the owner than the one that has
// signed it.
var ErrOwner = errors.New("the launch file names another owner's key than the one that has signed it")

// Take reads a launch file that its owner has signed. Errors: [ErrOwner]; those of
// [Parse].
func Take(name string, l *owner.Launch) (*File, error) {
	f, err := Parse(name, l.File)
	if err != nil {
		return nil, err
	}
	if !f.PolicyKey.Equal(l.Owner) {
		return nil, fmt.Errorf("%w: owner.policy_key is %s, and %s has signed; sign the file with the private key of owner.policy_key", ErrOwner, attest.KeyID(f.PolicyKey), l.KeyID())
	}
	return f, nil
}

// Apply gives the image's configuration with all that the file sets. keep is given
// certificates that stand in the file, with the name of a file for them, and gives that
// file's path. Errors: those of keep; [config.Problems], if the file and the image do not
// go together.
func (f *File) Apply(name string, image *config.Config, keep func(file string, content []byte) (path string, err error)) (*config.Config, error) {
	part := *f.part
	part.HSM.Members = append([]config.Member(nil), part.HSM.Members...)
	place := func(path *string) {
		if *path != "" {
			*path = filepath.Join(image.Launch.Modules, filepath.Base(*path))
		}
	}
	place(&part.HSM.Module)
	for i := range part.HSM.Members {
		place(&part.HSM.Members[i].Module)
	}
	for key, text := range f.certificates {
		path, err := keep(key+".pem", []byte(text))
		if err != nil {
			return nil, err
		}
		at(&part, key).SetString(path)
	}
	return image.Overlay(name, &part)
}
