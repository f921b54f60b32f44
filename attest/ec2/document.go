// Package ec2 checks the instance identity document that EC2 signs for each instance: in
// which account and Region it runs, and of which image.
//
// A document that passes proves that AWS says so of the instance that it names, and no
// more. Whoever may ask the instance's metadata service can take it along, and it has no
// nonce. So it counts only beside a NitroTPM document (package nitro) of the same instance,
// which is fresh; an older document of that instance says what was true of it then.
//
// The form is that of the EC2 User Guide, "Verify the instance identity document": what the
// metadata service has at /latest/dynamic/instance-identity/rsa2048 is a PKCS#7 SignedData
// (RFC 2315) with the document in it, signed by RSA with SHA-256. The certificates, one for
// each Region, stand in AWS's documentation alone; nothing else leads to them. The other two
// signatures that AWS offers are by RSA of 1024 bits and by DSA with SHA-1, and not used.
package ec2

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/smallstep/pkcs7"
)

// The largest signed document, and the largest document in it, in bytes.
const (
	MaxDocument = 16 << 10
	maxContent  = 8 << 10
)

// Instance is who an instance is, as EC2 says.
type Instance struct {
	ID      string `json:"id" jsonschema:"The ID of the EC2 instance."`
	Type    string `json:"type" jsonschema:"The type of the EC2 instance."`
	Image   string `json:"image" jsonschema:"The ID of the AMI."`
	Region  string `json:"region" jsonschema:"The AWS Region."`
	Zone    string `json:"zone" jsonschema:"The Availability Zone."`
	Account string `json:"account" jsonschema:"The AWS account."`
}

var (
	instanceID = regexp.MustCompile(`^i-[0-9a-f]{8,32}$`)
	imageID    = regexp.MustCompile(`^ami-[0-9a-f]{8,32}$`)
	accountID  = regexp.MustCompile(`^[0-9]{12}$`)
	word       = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,63}$`)
)

// ParseInstance reads an instance identity document, signed or not (EC2 User Guide,
// "Instance identity documents"). Of that it takes what it knows, in the forms it knows.
func ParseInstance(text []byte) (*Instance, error) {
	i, _, err := parseInstance(text)
	return i, err
}

func parseInstance(text []byte) (*Instance, time.Time, error) {
	var d struct {
		InstanceID       string    `json:"instanceId"`
		InstanceType     string    `json:"instanceType"`
		ImageID          string    `json:"imageId"`
		Region           string    `json:"region"`
		AvailabilityZone string    `json:"availabilityZone"`
		AccountID        string    `json:"accountId"`
		PendingTime      time.Time `json:"pendingTime"`
	}
	if len(text) > maxContent {
		return nil, time.Time{}, fmt.Errorf("instance identity: more than %d bytes", maxContent)
	}
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, time.Time{}, fmt.Errorf("instance identity: %w", err)
	}
	for _, field := range []struct {
		name, value string
		form        *regexp.Regexp
	}{
		{"instanceId", d.InstanceID, instanceID}, {"instanceType", d.InstanceType, word}, {"imageId", d.ImageID, imageID},
		{"region", d.Region, word}, {"availabilityZone", d.AvailabilityZone, word}, {"accountId", d.AccountID, accountID},
	} {
		if !field.form.MatchString(field.value) {
			return nil, time.Time{}, fmt.Errorf("instance identity: %s is not of the form that it should have", field.name)
		}
	}
	return &Instance{ID: d.InstanceID, Type: d.InstanceType, Image: d.ImageID, Region: d.Region, Zone: d.AvailabilityZone, Account: d.AccountID}, d.PendingTime, nil
}

// Document is a signed one. Nothing in it is true before its signature was verified.
type Document struct {
	Instance
	// Pending is when the instance was launched; zero if the document does not say.
	Pending time.Time

	signed *pkcs7.PKCS7
}

var (
	oidSHA256  = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidContent = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
)

// Parse reads a signed document: the SignedData, not in Base64. It checks no signature.
func Parse(der []byte) (*Document, error) {
	if len(der) > MaxDocument {
		return nil, fmt.Errorf("instance identity: %d bytes, of which it may have %d", len(der), MaxDocument)
	}
	p, err := pkcs7.Parse(der)
	if err != nil {
		return nil, fmt.Errorf("instance identity: it is no PKCS#7 SignedData: %w", err)
	}
	if len(p.Signers) != 1 || !p.Signers[0].DigestAlgorithm.Algorithm.Equal(oidSHA256) {
		return nil, errors.New("instance identity: it must have one signature, with SHA-256, as what EC2 has at instance-identity/rsa2048")
	}
	if len(p.Content) == 0 {
		return nil, errors.New("instance identity: there is a signature, and no document in it")
	}
	d := &Document{signed: p}
	who, pending, err := parseInstance(p.Content)
	if err != nil {
		return nil, err
	}
	d.Instance, d.Pending = *who, pending.UTC()
	return d, nil
}

// signedBy says why it is not signed by the certificate's key. What is compared are
// signatures: the document carries no certificate that would count.
func (d *Document) signedBy(c *x509.Certificate) error {
	one := *d.signed
	one.Certificates = []*x509.Certificate{c}
	if len(one.Signers[0].AuthenticatedAttributes) > 0 {
		// RFC 2315 section 9.2: what is signed names what the content is.
		var is asn1.ObjectIdentifier
		if err := one.UnmarshalSignedAttribute(oidContent, &is); err != nil || !is.Equal(oidData) {
			return errors.New("its signature is over something else than data")
		}
	}
	return one.Verify()
}
