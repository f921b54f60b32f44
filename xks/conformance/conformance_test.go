package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// testLimits keep the tests short.
var testLimits = limits{slow: 4 * time.Second, interval: 20 * time.Millisecond, flood: 24 << 20, patience: 300 * time.Millisecond, samples: 3}

// runOnly runs those checks that are named.
func runOnly(t *testing.T, target Target, ids ...string) *Report {
	t.Helper()
	var list []check
	for _, c := range checks() {
		if slices.Contains(ids, c.id) {
			list = append(list, c)
		}
	}
	if len(list) != len(ids) {
		t.Fatalf("not all of these are checks: %v", ids)
	}
	r, err := run(t.Context(), target, testLimits, list, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCorrectProxyPasses(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"", "mutual"} {
		var seen []Result
		r, err := run(t.Context(), start(t, kind), testLimits, checks(), func(r Result) { seen = append(seen, r) })
		if err != nil {
			t.Fatal(err)
		}
		if len(seen) != len(r.Results) {
			t.Errorf("progress was told of %d of %d results", len(seen), len(r.Results))
		}
		for _, result := range r.Results {
			mutual := strings.HasPrefix(result.ID, "tls/client-certificate")
			if theme, _, _ := strings.Cut(result.ID, "/"); theme == "latency" || theme == "load" {
				if result.Outcome == NotRun {
					t.Errorf("%s: %s", result.ID, result.Detail)
				}
				continue // the times are those of a busy machine
			}
			if result.Outcome != Pass && (!mutual || kind == "mutual" || result.Outcome != NotRun) {
				t.Errorf("%q %s: %s: %s", kind, result.ID, result.Outcome, result.Detail)
			}
		}
		if len(r.Latency) != 4 || r.Load == nil || r.Load.Requests != 10 {
			t.Errorf("latency %v, load %+v", r.Latency, r.Load)
		}
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{testSecret, "Signature="} {
			if strings.Contains(string(text), secret) {
				t.Errorf("the report holds %q", secret)
			}
		}
	}
}

// defects are those of the proxy, with the checks that must fail then.
var defects = []struct {
	defect string
	fails  string
}{
	{"tls-1.1", "tls/old-versions"},
	{"aes-128-only", "tls/suites"},
	{"mutual-optional", "tls/client-certificate-required"},
	{"mutual-unchecked", "tls/client-certificate-other"},
	{"patient", "http/slow-body http/slow-headers"},
	{"no-http1", "http/1.1"},
	{"no-http2", "http/2"},
	{"http2-differs", "http/same-answers"},
	{"sloppy-http", "http/garbage http/two-lengths"},
	{"endless-headers", "http/endless-headers"},
	{"unbounded", "http/unauthenticated-body limits/aad-65536 limits/body-1-MiB limits/body-16-MiB"},
	{"unbounded-chunks", "http/unauthenticated-body"},

	{"refuses-all", "sigv4/valid"},
	{"two-headers-only", "sigv4/more-signed-headers"},
	{"strict-clock", "sigv4/skew"},
	{"any-signature", "sigv4/wrong-secret sigv4/changed-body sigv4/changed-path sigv4/changed-header sigv4/changed-method sigv4/changed-date sigv4/added-query sigv4/replay"},
	{"any-access-key", "sigv4/unknown-access-key"},
	{"no-authorization", "sigv4/no-authorization"},
	{"lenient-authorization", "sigv4/malformed-authorization sigv4/garbage-signature"},
	{"any-algorithm", "sigv4/wrong-algorithm"},
	{"any-service", "sigv4/wrong-service"},
	{"any-service constant-scope", "sigv4/wrong-service"},
	{"any-terminator", "sigv4/wrong-terminator"},
	{"any-terminator constant-scope", "sigv4/wrong-terminator"},
	{"any-terminator scope-as-text", "sigv4/wrong-terminator"},
	{"any-scope-date", "sigv4/scope-date"},
	{"any-scope-date scope-as-text", "sigv4/scope-date"},
	{"any-date", "sigv4/no-date"},
	{"never-expires", "sigv4/expired sigv4/long-expired"},
	{"takes-future", "sigv4/future"},
	{"host-unsigned", "sigv4/host-not-signed"},
	{"date-unsigned", "sigv4/date-not-signed"},
	{"host-unsigned date-unsigned", "sigv4/nothing-signed"},
	{"trims-body", "sigv4/changed-body"},
	{"path-unsigned", "sigv4/changed-path"},
	{"method-unsigned", "sigv4/changed-method"},
	{"headers-unsigned", "sigv4/changed-header"},
	{"date-not-in-text", "sigv4/changed-date"},
	{"query-unsigned", "sigv4/added-query"},
	{"short-signatures", "sigv4/garbage-signature"},
	{"replay", "sigv4/replay"},
	{"health-unsigned", "sigv4/every-operation"},
	{"explains", "sigv4/one-answer"},

	{"any-prefix", "uri/unknown-prefix"},
	{"any-path", "uri/unknown-path"},
	{"any-case", "uri/unknown-operation"},
	{"redirects", "uri/malformed-key"},
	{"creates-keys", "uri/unknown-key"},
	{"get-allowed", "method/get"},
	{"plain-405", "method/get-json"},
	{"put-allowed", "method/others"},

	{"health-fails", "health/success"},
	{"no-vendor", "health/fields"},
	{"fleet-of-none", "health/fleet-size"},
	{"fleet-as-text", "health/fleet-size"},
	{"no-managers", "health/ekm-count"},
	{"own-status", "health/ekm-fields"},
	{"same-ids", "health/ekm-fields"},
	{"denies-all", "metadata/success grants/allowed"},
	{"own-spec", "metadata/key-spec"},
	{"lists-one", "metadata/key-usage"},
	{"own-key-status", "metadata/key-status state/disabled-metadata"},
	{"no-iv-field", "encrypt/fields"},
	{"sends-base64url", "encrypt/fields"},
	{"tag-appended", "encrypt/ciphertext-length"},
	{"long-metadata", "encrypt/metadata-length"},
	{"long-iv", "encrypt/iv-length"},
	{"short-tag", "encrypt/tag-length"},
	{"constant-iv", "encrypt/fresh-iv"},
	{"strict-metadata", "tolerance/unknown-fields"},
	{"no-optional", "tolerance/optional-fields"},
	{"known-operations", "tolerance/kms-operation"},
	{"arn-only", "tolerance/service-principal"},
	{"uuid-only", "tolerance/request-id"},

	{"reverses", "decrypt/round-trip"},
	{"cdiv-without-aad", "cdiv/with-aad"},
	{"cdiv-framed", "cdiv/with-aad cdiv/without-aad"},
	{"no-cdiv", "cdiv/with-aad cdiv/without-aad"},
	{"one-key", "decrypt/other-key"},
	{"no-integrity", "decrypt/changed-ciphertext decrypt/changed-tag decrypt/changed-iv decrypt/truncated-ciphertext"},
	{"ignores-aad", "decrypt/changed-aad decrypt/missing-aad decrypt/added-aad"},
	{"ignores-metadata", "decrypt/changed-metadata decrypt/missing-metadata"},
	{"unframed", "decrypt/metadata-as-aad decrypt/metadata-boundary"},
	{"short-tags-taken", "decrypt/tag-15-bytes decrypt/tag-12-bytes decrypt/tag-empty"},
	{"cuts-tag", "decrypt/tag-17-bytes"},
	{"joins-tag", "decrypt/tag-boundary"},
	{"cuts-iv", "decrypt/iv-length"},
	{"joins-iv", "decrypt/iv-boundary"},
	{"cuts-metadata", "decrypt/metadata-21-bytes"},

	{"small-plaintext", "limits/plaintext"},
	{"small-aad", "limits/aad"},
	{"short-arn", "limits/arn"},
	{"small-body", "limits/together"},
	{"over-is-invalid", "limits/over-plaintext limits/over-aad"},

	{"lenient-metadata", "validation/health-no-metadata validation/health-empty-metadata validation/health-no-kmsRequestId validation/health-no-kmsOperation " +
		"validation/metadata-no-metadata validation/metadata-empty-metadata validation/metadata-no-awsPrincipalArn validation/metadata-no-kmsOperation validation/metadata-no-kmsRequestId " +
		"validation/encrypt-no-metadata validation/encrypt-empty-metadata validation/encrypt-no-awsPrincipalArn validation/encrypt-no-kmsKeyArn validation/encrypt-no-kmsOperation validation/encrypt-no-kmsRequestId " +
		"validation/decrypt-no-metadata validation/decrypt-empty-metadata validation/decrypt-no-awsPrincipalArn validation/decrypt-no-kmsKeyArn validation/decrypt-no-kmsOperation validation/decrypt-no-kmsRequestId " +
		"validation/metadata-type validation/health-metadata-type validation/request-id-type validation/principal-type"},
	{"lenient-fields", "validation/encrypt-no-plaintext validation/encrypt-no-encryptionAlgorithm validation/decrypt-no-encryptionAlgorithm " +
		"validation/plaintext-type validation/aad-type validation/algorithm-type"},
	{"lenient-fields no-integrity cuts-iv", "validation/decrypt-no-ciphertext validation/decrypt-no-initializationVector validation/decrypt-no-authenticationTag"},
	{"lenient-json", "validation/not-json validation/empty-body validation/cut-off validation/array validation/null validation/trailing-garbage validation/two-objects validation/deep-nesting"},
	{"json-500", "validation/not-json"},
	{"lenient-base64", "validation/plaintext-base64 validation/aad-base64"},
	{"lenient-base64 no-integrity cuts-iv cuts-metadata", "validation/ciphertext-base64 validation/metadata-base64 validation/iv-base64 validation/tag-base64"},
	{"takes-base64url", "validation/plaintext-base64url validation/aad-base64"},
	{"any-cipher", "validation/algorithm validation/decrypt-algorithm validation/cdiv-algorithm"},

	{"any-usage", "usage/encrypt-only usage/decrypt-only usage/none"},
	{"cdiv-unchecked", "usage/encrypt-only-cdiv"},
	{"lists-both", "usage/encrypt-only-metadata usage/decrypt-only-metadata usage/none-metadata"},
	{"serves-disabled", "state/disabled"},
	{"always-enabled", "state/disabled-metadata"},
	{"no-grants", "grants/denied"},
	{"health-granted", "grants/health-exempt"},

	{"text-plain", "http/content-type"},
	{"errors-not-json", "errors/json"},
	{"own-names", "errors/name"},
	{"all-400", "errors/status"},
	{"long-message", "errors/message"},
	{"slow", "latency/health latency/metadata latency/encrypt latency/decrypt load/rate"},
}

// warnings are the checks that must warn with a defect.
var warnings = []struct{ defect, warns string }{
	{"classic-key-exchange", "tls/key-exchange"},
	{"other-name", "tls/certificate-name"},
	{"expires-soon", "tls/certificate-expiry"},
	{"closes", "http/keep-alive"},
	{"clock", "sigv4/clock"},
	{"one-region", "sigv4/other-region"},
	{"any-hex-case", "sigv4/uppercase-signature"},
	{"unavailable", "health/usable"},
}

func TestDefectsAreFound(t *testing.T) {
	t.Parallel()
	for _, d := range defects {
		t.Run(d.defect, func(t *testing.T) {
			t.Parallel()
			target := start(t, strings.Fields(d.defect)...)
			if d.defect == "unbounded" {
				target.Timeout = time.Minute // 16 MiB take their time under the race detector
			}
			r := runOnly(t, target, strings.Fields(d.fails)...)
			for _, result := range r.Results {
				if result.Outcome != Fail {
					t.Errorf("%s: %s: %s", result.ID, result.Outcome, result.Detail)
				}
			}
		})
	}
	for _, d := range warnings {
		t.Run(d.defect, func(t *testing.T) {
			t.Parallel()
			for _, result := range runOnly(t, start(t, d.defect), strings.Fields(d.warns)...).Results {
				if result.Outcome != Warn {
					t.Errorf("%s: %s: %s", result.ID, result.Outcome, result.Detail)
				}
			}
		})
	}
}

// TestEveryCheckCanFail: a check that no defect makes fail is worth nothing.
func TestEveryCheckCanFail(t *testing.T) {
	shown := map[string]bool{
		"tls/version":          true, // this client cannot be made to negotiate less
		"sigv4/kms-credential": true, // TestWhatKMSTakes
		"uri/kms-form":         true,
	}
	for _, d := range defects {
		for id := range strings.FieldsSeq(d.fails) {
			shown[id] = true
		}
	}
	for _, d := range warnings {
		shown[d.warns] = true
	}
	ids := map[string]bool{}
	for _, c := range checks() {
		if !shown[c.id] {
			t.Errorf("no defect shows that %s can fail", c.id)
		}
		if ids[c.id] {
			t.Errorf("%s is there twice", c.id)
		}
		ids[c.id] = true
		if c.rule == "" || c.source == "" || !strings.HasSuffix(c.rule, ".") {
			t.Errorf("%s has no proper rule and source", c.id)
		}
	}
}

func TestWhatKMSTakes(t *testing.T) {
	t.Parallel()
	good := Target{URL: "https://xks.test/a", AccessKeyID: testAccessKey, SecretAccessKey: testSecret, KeyID: "both"}
	for _, c := range []struct {
		change func(*Target)
		run    func(context.Context, *session) verdict
		want   Outcome
	}{
		{func(*Target) {}, checkCredentialForm, Pass},
		{func(t *Target) { t.AccessKeyID = "AKIAIOSFODNN7EXAMPL8" }, checkCredentialForm, Warn},
		{func(t *Target) { t.SecretAccessKey = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY" }, checkCredentialForm, Warn},
		{func(*Target) {}, checkURIForm, Pass},
		{func(t *Target) { t.URL += "/b.c" }, checkURIForm, Warn},
		{func(t *Target) { t.KeyID = "a:b" }, checkURIForm, Warn},
		{func(t *Target) { t.URL += "/" + strings.Repeat("b", 100); t.KeyID = strings.Repeat("k", 128) }, checkURIForm, Warn},
	} {
		target := good
		c.change(&target)
		s, err := newSession(target, testLimits)
		if err != nil {
			t.Fatal(err)
		}
		if v := c.run(t.Context(), s); v.outcome != c.want {
			t.Errorf("%s %s %s: %v", target.URL, target.KeyID, target.AccessKeyID, v)
		}
	}
}

// TestNothingIsLeft looks for goroutines and connections after a run that was
// interrupted while all kinds of checks were under way. It is not parallel, so
// that no other test runs at that time.
func TestNothingIsLeft(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := run(ctx, start(t), testLimits, checks(), nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	var stacks string
	for range 100 {
		b := make([]byte, 1<<20)
		stacks = string(b[:runtime.Stack(b, true)])
		if !strings.Contains(stacks, "conformance.(*session)") && !strings.Contains(stacks, "http.(*persistConn)") {
			return
		}
		time.Sleep(20 * time.Millisecond) // a closed connection's goroutines end soon, not at once
	}
	t.Errorf("left behind:\n%s", stacks)
}

func TestNotRun(t *testing.T) {
	t.Parallel()
	target := start(t, "http1-only")
	target.EncryptOnlyKeyID, target.DecryptOnlyKeyID, target.NoUsageKeyID, target.DisabledKeyID, target.DeniedPrincipal = "", "", "", "", ""
	target.Load = LoadPlan{}
	for _, r := range runOnly(t, target, "usage/encrypt-only", "decrypt/other-key", "usage/none", "state/disabled", "grants/denied", "load/rate",
		"tls/client-certificate-other", "http/2", "http/same-answers").Results {
		if r.Outcome != NotRun || r.Detail == "" {
			t.Errorf("%s: %s: %s", r.ID, r.Outcome, r.Detail)
		}
	}
	target.SecretAccessKey = "wrong"
	for _, r := range runOnly(t, target, "sigv4/valid", "sigv4/expired", "encrypt/fields").Results {
		if want := map[bool]Outcome{true: Fail, false: NotRun}[r.ID == "sigv4/valid"]; r.Outcome != want {
			t.Errorf("with a wrong secret %s: %s: %s", r.ID, r.Outcome, r.Detail)
		}
	}
}

func TestRunCannotBegin(t *testing.T) {
	t.Parallel()
	good := start(t)
	l, err := net.Listen("tcp", "127.0.0.1:0") // after start, which could get the same port otherwise
	if err != nil {
		t.Fatal(err)
	}
	closed := "https://" + l.Addr().String()
	_ = l.Close()
	for _, c := range []struct {
		change func(*Target)
		want   error
	}{
		{func(t *Target) { t.URL = "http://localhost/" }, ErrTarget},
		{func(t *Target) { t.URL = "localhost:8443" }, ErrTarget},
		{func(t *Target) { t.URL = "https://" }, ErrTarget},
		{func(t *Target) { t.URL += "?a=1" }, ErrTarget},
		{func(t *Target) { t.KeyID = "" }, ErrTarget},
		{func(t *Target) { t.SecretAccessKey = "" }, ErrTarget},
		{func(t *Target) { t.URL = closed }, ErrConnect},
		{func(t *Target) { t.RootCAs = nil }, ErrConnect},
	} {
		target := good
		c.change(&target)
		r, err := Run(t.Context(), target, nil)
		if !errors.Is(err, c.want) || r != nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v instead of %v", target.URL, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = Run(ctx, good, func(Result) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

func TestURLForms(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"https://xks.test":                  "https://xks.test/kms/xks/v1",
		"https://xks.test:443/":             "https://xks.test/kms/xks/v1",
		"https://xks.test:8443/a/b":         "https://xks.test:8443/a/b/kms/xks/v1",
		"https://xks.test/a/kms/xks/v1":     "https://xks.test/a/kms/xks/v1",
		"https://xks.test:8443/kms/xks/v1/": "https://xks.test:8443/kms/xks/v1",
		"https://[::1]:8443/kms/xks/v1":     "https://[::1]:8443/kms/xks/v1",
	} {
		s, err := newSession(Target{URL: url, AccessKeyID: "a", SecretAccessKey: "s", KeyID: "k"}, testLimits)
		if err != nil || s.url() != want {
			t.Errorf("%s: %v, %v", url, s, err)
		}
	}
}
