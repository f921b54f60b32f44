package sigv4_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"holdfast/xks/sigv4"
)

const (
	accessKeyID = "AKIAI2SFODNN7EXAMPLE"
	secret      = "FYtE5EFA5FT0mCc3DrGUe2sti527BitkQ0Zr9MO9fvE"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func hmacSHA256(key []byte, message string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(message))
	return h.Sum(nil)
}

var errMismatch = errors.New("the signature does not match")

// verifyWith compares the signature of a request with the one that the secret makes.
func verifyWith(secret string, claim *sigv4.Claim, r *http.Request, body []byte) error {
	toSign, err := claim.StringToSign(r, body)
	if err != nil {
		return err
	}
	if sign(secret, claim.Date, claim.Region, claim.Service, toSign) != claim.Signature {
		return errMismatch
	}
	return nil
}

func sign(secret, date, region, service string, toSign []byte) [32]byte {
	k := hmacSHA256([]byte("AWS4"+secret), date)
	for _, part := range []string{region, service, "aws4_request", string(toSign)} {
		k = hmacSHA256(k, part)
	}
	return [32]byte(k)
}

// verify parses and verifies, as the API does.
func verify(v sigv4.Verifier, r *http.Request, body []byte) error {
	claim, err := v.Parse(r)
	if err != nil {
		return err
	}
	return verifyWith(secret, claim, r, body)
}

// signed gives a request as the AWS SDK signs it, as the server would see it.
func signed(t testing.TB, body, service string, at time.Time, change ...func(*http.Request)) *http.Request {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "https://xks.example.com/demo/kms/xks/v1/health", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Amz-Odd", "  two   spaces\tinside ")
	for _, f := range change {
		f(r)
	}
	sum := sha256.Sum256([]byte(body))
	err := v4.NewSigner().SignHTTP(context.Background(), aws.Credentials{AccessKeyID: accessKeyID, SecretAccessKey: secret},
		r, hex.EncodeToString(sum[:]), service, "eu-west-1", at)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func verifier() sigv4.Verifier { return sigv4.Verifier{Now: func() time.Time { return now }} }

func TestVerifiesWhatTheSDKSigns(t *testing.T) {
	const body = `{"requestMetadata":{}}`
	r := signed(t, body, sigv4.Service, now)
	if err := verify(verifier(), r, []byte(body)); err != nil {
		t.Fatal(err)
	}
	claim, err := func() (*sigv4.Claim, error) { v := verifier(); return v.Parse(r) }()
	if err != nil {
		t.Fatal(err)
	}
	if claim.AccessKeyID != accessKeyID || claim.Region != "eu-west-1" || claim.Service != sigv4.Service || !claim.Time.Equal(now) || claim.Skew != 0 {
		t.Errorf("claim %+v", claim)
	}
}

// TestPublishedVector is "post-vanilla" of the signature test suite that AWS
// publishes, with its credential AKIDEXAMPLE.
func TestPublishedVector(t *testing.T) {
	at := time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)
	v := sigv4.Verifier{Services: []string{"service"}, Now: func() time.Time { return at }}
	r := httptest.NewRequest(http.MethodPost, "https://example.amazonaws.com/", nil)
	r.Header.Set("X-Amz-Date", "20150830T123600Z")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "+
		"SignedHeaders=host;x-amz-date, Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b")
	claim, err := v.Parse(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := verifyWith("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", claim, r, nil); err != nil {
		t.Fatal(err)
	}
}

func TestRefuses(t *testing.T) {
	const body = `{"requestMetadata":{}}`
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	edit := func(old, new string) func(*http.Request) {
		return func(r *http.Request) {
			a := r.Header.Get("Authorization")
			if !strings.Contains(a, old) {
				panic("the test's premise does not hold: " + a)
			}
			r.Header.Set("Authorization", strings.Replace(a, old, new, 1))
		}
	}
	tests := []struct {
		name   string
		body   string // what arrives; body if empty
		at     time.Time
		change func(*http.Request) // after signing
		want   string
	}{
		{name: "body changed", body: "{}", want: "does not match"},
		{name: "path changed", change: func(r *http.Request) { r.URL.Path = "/other/kms/xks/v1/health" }, want: "does not match"},
		{name: "method changed", change: func(r *http.Request) { r.Method = http.MethodPut }, want: "does not match"},
		{name: "host changed", change: func(r *http.Request) { r.Host = "other.example.com" }, want: "does not match"},
		{name: "signed header changed", change: set("Content-Type", "text/plain"), want: "does not match"},
		{name: "signed header gone", change: func(r *http.Request) { r.Header.Del("Content-Type") }, want: "content-type"},
		{name: "no header", change: func(r *http.Request) { r.Header.Del("Authorization") }, want: "0 Authorization"},
		{name: "two headers", change: func(r *http.Request) { r.Header.Add("Authorization", "x") }, want: "2 Authorization"},
		{name: "other algorithm", change: edit("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA512"), want: "begin with"},
		{name: "other service", change: edit("kms-xks-proxy", "s3"), want: `service "s3"`},
		{name: "other terminator", change: edit("aws4_request", "aws5_request"), want: "Credential"},
		{name: "part unknown", change: edit("Signature=", "Sig="), want: "part"},
		{name: "part twice", change: edit("Signature=", "SignedHeaders=host, Signature="), want: "part"},
		{name: "signature short", change: func(r *http.Request) {
			a := r.Header.Get("Authorization")
			r.Header.Set("Authorization", a[:len(a)-2])
		}, want: "64 lower-case"},
		{name: "signature upper case", change: func(r *http.Request) {
			head, sig, _ := strings.Cut(r.Header.Get("Authorization"), "Signature=")
			r.Header.Set("Authorization", head+"Signature="+strings.Repeat("A", len(sig)))
		}, want: "64 lower-case"},
		{name: "host not signed", change: edit("host;", ""), want: "lack host"},
		{name: "date not signed", change: edit("x-amz-date;", ""), want: "lack host"},
		{name: "headers unsorted", change: edit("host;x-amz-date", "x-amz-date;host"), want: "sorted"},
		{name: "scope of another day", change: edit("20261123", "20261122"), want: "date"},
		{name: "two dates", change: func(r *http.Request) { r.Header.Add("X-Amz-Date", "20261123T120000Z") }, want: "2 X-Amz-Date"},
		{name: "date malformed", change: set("X-Amz-Date", "yesterday"), want: "X-Amz-Date"},
		{name: "expired", at: now.Add(-5*time.Minute - time.Second), want: "from now"},
		{name: "from the future", at: now.Add(5*time.Minute + time.Second), want: "from now"},
		{name: "query string", change: func(r *http.Request) { r.URL.RawQuery = "a=b" }, want: "query"},
		{name: "empty query string", change: func(r *http.Request) { r.URL.ForceQuery = true }, want: "query"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			at := tt.at
			if at.IsZero() {
				at = now
			}
			r := signed(t, body, sigv4.Service, at)
			if tt.change != nil {
				tt.change(r)
			}
			got := body
			if tt.body != "" {
				got = tt.body
			}
			err := verify(verifier(), r, []byte(got))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestAcceptsAtTheEdgeOfTheWindow(t *testing.T) {
	for _, skew := range []time.Duration{-sigv4.MaxSkew, sigv4.MaxSkew} {
		if err := verify(verifier(), signed(t, "{}", sigv4.Service, now.Add(skew)), []byte("{}")); err != nil {
			t.Errorf("skew %s: %v", skew, err)
		}
	}
}

// TestSkewOfRefused: the skew is known for the log when the time is refused.
func TestSkewOfRefused(t *testing.T) {
	v := verifier()
	claim, err := v.Parse(signed(t, "{}", sigv4.Service, now.Add(-7*time.Minute)))
	if err == nil || claim == nil || claim.Skew != -7*time.Minute {
		t.Errorf("claim %+v, error %v", claim, err)
	}
}

func TestConfiguredServiceAndRegions(t *testing.T) {
	v := verifier()
	v.Services = []string{"xks-kms"}
	for _, service := range []string{"xks-kms", sigv4.Service} {
		if err := verify(v, signed(t, "{}", service, now), []byte("{}")); err != nil {
			t.Errorf("service %s: %v", service, err)
		}
	}
	v.Regions = []string{"us-east-1"}
	if err := verify(v, signed(t, "{}", sigv4.Service, now), []byte("{}")); err == nil {
		t.Error("a Region that is not allowed was accepted")
	}
}

func TestHTTP2Authority(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "https://xks.example.com/kms/xks/v1/health", nil)
	r.Header.Set("X-Amz-Date", now.Format("20060102T150405Z"))
	canonical := "POST\n/kms/xks/v1/health\n\n:authority:xks.example.com\nx-amz-date:20261123T120000Z\n\n:authority;x-amz-date\n" +
		hex.EncodeToString(sha256.New().Sum(nil))
	sum := sha256.Sum256([]byte(canonical))
	sig := sign(secret, "20261123", "us-east-1", sigv4.Service,
		[]byte("AWS4-HMAC-SHA256\n20261123T120000Z\n20261123/us-east-1/kms-xks-proxy/aws4_request\n"+hex.EncodeToString(sum[:])))
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+accessKeyID+"/20261123/us-east-1/kms-xks-proxy/aws4_request, "+
		"SignedHeaders=:authority;x-amz-date, Signature="+hex.EncodeToString(sig[:]))
	if err := verify(verifier(), r, nil); err == nil {
		t.Error("HTTP/1.1: :authority was accepted for host")
	}
	r.ProtoMajor, r.Proto = 2, "HTTP/2.0"
	if err := verify(verifier(), r, nil); err != nil {
		t.Errorf("HTTP/2: %v", err)
	}
}

// FuzzParse: no header makes the parser panic, and what it accepts is within
// its rules.
func FuzzParse(f *testing.F) {
	good := signed(f, "{}", sigv4.Service, now)
	f.Add(good.Header.Get("Authorization"), good.Header.Get("X-Amz-Date"))
	f.Add("AWS4-HMAC-SHA256 Credential=////,SignedHeaders=;,Signature=", "20261123T120000Z")
	f.Fuzz(func(t *testing.T, authorization, date string) {
		r := httptest.NewRequest(http.MethodPost, "https://xks.example.com/kms/xks/v1/health", nil)
		r.Header["Authorization"] = []string{authorization}
		r.Header["X-Amz-Date"] = []string{date}
		v := verifier()
		claim, err := v.Parse(r)
		if err != nil {
			return
		}
		if claim.Service != sigv4.Service || claim.Skew > sigv4.MaxSkew || claim.Skew < -sigv4.MaxSkew {
			t.Errorf("accepted %+v", claim)
		}
		// Whatever headers it names, verification must not panic, and another body
		// must not verify under a signature that is not its own.
		err = verifyWith(secret, claim, r, bytes.Repeat([]byte("x"), 10))
		if err == nil {
			t.Errorf("a made-up signature verified: %q", authorization)
		}
	})
}
