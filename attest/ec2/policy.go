package ec2

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Policy says which instances are good.
type Policy struct {
	// Accounts are the AWS accounts (12 digits) that the instance may be of.
	Accounts []string `json:"accounts"`
	// Regions, Images (ami-…) and Owners are where it may run, what it may have been
	// launched from, and whose its launch file may be: the SHA-256 of the owner's public key
	// (DER SubjectPublicKeyInfo), in hexadecimal. Each may be any if empty.
	Regions []string `json:"regions,omitempty"`
	Images  []string `json:"images,omitempty"`
	Owners  []string `json:"owners,omitempty"`
	// Certificates (DER) are those by which AWS signs the documents, of each Region that
	// the instance may run in.
	Certificates [][]byte `json:"certificates"`
	// Admit has a broker admit a new machine that meets the policy, under a name that
	// nobody was admitted under, without a person.
	Admit bool `json:"admit"`
}

// Limits of a policy.
const (
	maxList    = 100
	maxCert    = 4096
	minKeyBits = 2048
)

var (
	regionName = regexp.MustCompile(`^[a-z]{2,4}(-[a-z]+)+-[0-9]+$`)
	ownerID    = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Validate says what is wrong with the policy, all at once.
func (p *Policy) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("policy: instance."+format, args...)) }
	for _, l := range []struct {
		name, example string
		list          []string
		form          *regexp.Regexp
		needed        bool
	}{
		{"accounts", "123456789012", p.Accounts, accountID, true},
		{"regions", "eu-west-1", p.Regions, regionName, false},
		{"images", "ami-0123456789abcdef0", p.Images, imageID, false},
		{"owners", "the SHA-256 of the owner's key, 64 hexadecimal digits in lower case", p.Owners, ownerID, false},
	} {
		if l.needed && len(l.list) == 0 {
			bad("%s: name at least one, or any account of AWS could be it", l.name)
		}
		if len(l.list) > maxList {
			bad("%s: it has %d entries, of which it may have %d", l.name, len(l.list), maxList)
			continue
		}
		for i, v := range l.list {
			if !l.form.MatchString(v) {
				bad("%s: %.80q is not of the form: %s", l.name, v, l.example)
			}
			if slices.Contains(l.list[:i], v) {
				bad("%s: %.80q is named twice", l.name, v)
			}
		}
	}
	if len(p.Certificates) == 0 || len(p.Certificates) > maxList {
		bad("certificates: it has %d; write 1 to %d of those that AWS's documentation has (\"AWS public certificates for instance identity document signatures\", RSA-2048), each as Base64 of its DER", len(p.Certificates), maxList)
		return errors.Join(errs...)
	}
	for i, der := range p.Certificates {
		if _, err := parseCertificate(der); err != nil {
			bad("certificates[%d]: %w", i, err)
		}
	}
	return errors.Join(errs...)
}

// parseCertificate reads a certificate that can be one of AWS's for these documents.
func parseCertificate(der []byte) (*x509.Certificate, error) {
	if len(der) > maxCert {
		return nil, fmt.Errorf("it has %d bytes, of which it may have %d", len(der), maxCert)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("it is no certificate in DER: %w", err)
	}
	if key, ok := c.PublicKey.(*rsa.PublicKey); !ok || key.N.BitLen() < minKeyBits {
		return nil, fmt.Errorf("its key must be RSA of at least %d bits: take the one that AWS's documentation calls RSA-2048", minKeyBits)
	}
	return c, nil
}

func fingerprint(der []byte) string {
	d := sha256.Sum256(der)
	return hex.EncodeToString(d[:])
}

// Admits says in sentences which instances pass.
func (p *Policy) Admits() []string {
	where := "It must be an EC2 instance of the account " + strings.Join(p.Accounts, ", ")
	if len(p.Regions) > 0 {
		where += ", in a Region of " + strings.Join(p.Regions, ", ")
	}
	if len(p.Images) > 0 {
		where += ", launched from an image of " + strings.Join(p.Images, ", ")
	}
	if len(p.Owners) > 0 {
		where += ", whose launch file is of an owner of " + strings.Join(p.Owners, ", ")
	}
	says := []string{where + ": EC2's signed instance identity document must say so."}
	var of []string
	for _, der := range p.Certificates {
		sum := fingerprint(der)
		if region := known[sum]; region != "" {
			of = append(of, region)
			continue
		}
		says = append(says, fmt.Sprintf("Who has the key of the certificate with the SHA-256 %s can sign such documents too, and this program does not know it: compare it with AWS's documentation.", sum))
	}
	if of != nil {
		slices.Sort(of)
		says = append(says, "It takes AWS's certificates of "+strings.Join(of, ", ")+", each for its own Region.")
	}
	if p.Admit {
		says = append(says, "A broker admits such a machine by itself, if nobody was admitted under its name.")
	}
	return says
}
