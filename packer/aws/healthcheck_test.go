package aws_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"holdfast/appliance/config"
	"holdfast/xks"
	"holdfast/xks/xkstest"
)

// check is a load balancer's health check.
type check struct{ protocol, port, path, matcher string }

// checks reads the health checks of both templates.
func checks(t *testing.T) map[string]check {
	t.Helper()
	template, err := parse(read(t, "holdfast.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text := func(v any) string { return fmt.Sprint(v) }
	g := one(template, "AWS::ElasticLoadBalancingV2::TargetGroup")
	hcl := parseHCL(t, terraform(t))
	value := func(name string) string {
		return strings.Trim(strings.Join(hcl.values["aws_lb_target_group.xks."+name], " "), `"`)
	}
	for source, port := range map[string]string{"CloudFormation": text(g["Port"]), "Terraform": value("port")} {
		if port != text(at(g, "Targets", "0", "Port")) {
			t.Errorf("%s: KMS's calls go to port %s", source, port)
		}
	}
	return map[string]check{
		"CloudFormation": {text(g["HealthCheckProtocol"]), text(g["HealthCheckPort"]), text(g["HealthCheckPath"]), text(at(g, "Matcher", "HttpCode"))},
		"Terraform":      {value("health_check.protocol"), value("health_check.port"), value("health_check.path"), value("health_check.matcher")},
	}
}

// TestHealthCheck: the health checks of the templates are what an appliance answers while it serves, and
// not while it is locked; also where it demands client certificates of KMS, of which a load balancer has none.
func TestHealthCheck(t *testing.T) {
	authorities := x509.NewCertPool()
	authorities.AddCert(authority(t))
	address, _ := reflect.TypeFor[config.XKS]().FieldByName("Address")
	for source, c := range checks(t) {
		if port := address.Tag.Get("default"); c.protocol != "HTTPS" || ":"+c.port != port {
			t.Errorf("%s: %s on port %s, and the appliance serves HTTPS on %s", source, c.protocol, c.port, port)
		}
		for name, options := range map[string]xks.ServerOptions{
			"as it is":                 {},
			"with client certificates": {ClientCAs: authorities, ClientNames: []string{"cks.kms.eu-west-1.amazonaws.com"}},
		} {
			b := xkstest.Start(t, xkstest.Options{Server: options})
			// As a load balancer: no name, no certificate, and the server's is not verified.
			balancer := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // as it is
			healthy := func() bool {
				res, err := balancer.Get(b.URL + c.path)
				if err != nil {
					t.Errorf("%s, %s: %v", source, name, err)
					return false
				}
				_ = res.Body.Close()
				return fmt.Sprint(res.StatusCode) == c.matcher
			}
			if !healthy() {
				t.Errorf("%s, %s: the appliance serves, and is not healthy by %+v", source, name, c)
			}
			b.Appliance.Lock()
			if healthy() {
				t.Errorf("%s, %s: the appliance is locked, and is healthy by %+v", source, name, c)
			}
			b.Stop()
		}
	}
}

// authority is some authority's certificate.
func authority(t *testing.T) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "An authority"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c
}
