// Package ec2test plays AWS's part: it signs instance identity documents by a certificate of
// its own. It is for tests and for the simulated platform; its documents pass only where a
// policy has its certificate.
package ec2test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"time"

	"github.com/smallstep/pkcs7"

	"holdfast/attest/ec2"
)

// Authority is a key of the double's. It may be used by several goroutines.
type Authority struct {
	// Certificate (DER) is the one to write into a policy.
	Certificate []byte

	cert *x509.Certificate
	key  *rsa.PrivateKey
}

// New makes an authority with a key of its own.
func New() *Authority {
	key := must(rsa.GenerateKey(rand.Reader, 2048))
	// As AWS's: issued by itself, for two centuries.
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{Organization: []string{"Holdfast simulation, not Amazon"}},
		NotBefore: time.Date(2019, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2198, 1, 1, 0, 0, 0, 0, time.UTC), SignatureAlgorithm: x509.SHA256WithRSA}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return &Authority{Certificate: der, cert: must(x509.ParseCertificate(der)), key: key}
}

// Content gives the document of an instance, as the EC2 User Guide shows one.
func Content(i ec2.Instance) []byte {
	return must(json.MarshalIndent(map[string]any{
		"devpayProductCodes": nil, "marketplaceProductCodes": nil, "availabilityZone": i.Zone, "privateIp": "10.158.112.84", "version": "2017-09-30",
		"instanceId": i.ID, "billingProducts": nil, "instanceType": i.Type, "accountId": i.Account, "imageId": i.Image, "pendingTime": "2026-11-19T16:32:11Z",
		"architecture": "x86_64", "kernelId": nil, "ramdiskId": nil, "region": i.Region,
	}, "", "  "))
}

// Sign gives the signed document of an instance.
func (a *Authority) Sign(i ec2.Instance) []byte { return a.SignContent(Content(i)) }

// SignContent signs whatever it is given, as AWS signs documents.
func (a *Authority) SignContent(content []byte) []byte {
	s := must(pkcs7.NewSignedData(content))
	s.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	if err := s.AddSigner(a.cert, a.key, pkcs7.SignerInfoConfig{}); err != nil {
		panic(err)
	}
	return must(s.Finish())
}

// must is for what fails only if the program is wrong.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
