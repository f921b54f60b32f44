package xks_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/xks/xkstest"
)

// site is what the checks of a request may find wrong: the request, or what the
// administrators have set.
type site struct {
	t   *testing.T
	bed *xkstest.Bed
	kms *xkstest.KMS

	operation string // the last part of the path
	prefix    string
	method    string
	secret    string
	key       string
	metadata  xkstest.Body
	body      xkstest.Body
	undo      []func()
}

// check is one that a request has to pass.
type check struct {
	name string
	// of are the operations that have it.
	of []string
	// fail makes the request fail it.
	fail func(s *site)
	// status and error are what KMS sees then, reason what the log says.
	status        int
	error, reason string
}

var (
	all        = []string{"encrypt", "cdiv", "decrypt", "metadata", "health"}
	onKeys     = all[:4]
	withData   = all[:3]
	encrypting = all[:2]
)

// checks are all, in the order in which a request meets them. This order is what
// KMS sees: of two that fail, the one further up answers.
var checks = []check{
	{"path", all, func(s *site) { s.prefix = "/absent" }, 404, "InvalidUriPathException", "no key store has this URI path prefix"},
	{"method", all, func(s *site) { s.method = http.MethodPut }, 405, "UnsupportedOperationException", "only POST"},
	{"signature", all, func(s *site) { s.secret += "x" }, 401, "AuthenticationFailedException", "the signature does not match"},
	{"quota", all, (*site).useQuota, 429, "ThrottlingException", "quota of 1 requests per second is used up"},
	{"body", all, func(s *site) { s.metadata = s.metadata.With("kmsOperation", nil) }, 400, "ValidationException", "requestMetadata.kmsOperation is missing"},
	{"key", onKeys, func(s *site) { s.key = "absent" }, 404, "KeyNotFoundException", "the external key does not exist"},
	{"grants", onKeys, func(s *site) { s.metadata = s.metadata.With("awsPrincipalArn", "a stranger") }, 403, "AccessDeniedException", "no grant allows it"},
	{"block of everything", withData, func(s *site) { s.block(appliance.BlockTarget{Everything: true}) }, 400, "InvalidStateException", "is blocked: everything"},
	{"block of the key store", withData, func(s *site) { s.block(appliance.BlockTarget{KeyStore: "demo"}) }, 400, "InvalidStateException", "is blocked: key store demo"},
	{"block of the key", withData, func(s *site) {
		for _, key := range []string{"k", "encrypts", "decrypts"} {
			s.block(appliance.BlockTarget{KeyStore: "demo", KeyID: key})
		}
	}, 400, "InvalidStateException", "is blocked: key "},
	{"state", withData, (*site).disable, 400, "InvalidStateException", "conflict: the external key is not enabled"},
	{"usage", withData, (*site).otherUsage, 400, "InvalidKeyUsageException", "usage does not include"},
	{"size of the plaintext", encrypting, func(s *site) { s.body["plaintext"] = make([]byte, 4301) }, 501, "UnsupportedOperationException", "plaintext has more than 4300 bytes"},
	{"size of the ciphertext", []string{"decrypt"}, func(s *site) { s.body["ciphertext"] = make([]byte, 4301) }, 501, "UnsupportedOperationException", "ciphertext has more than 4300 bytes"},
	{"size of the AAD", withData, func(s *site) { s.body["additionalAuthenticatedData"] = make([]byte, 8193) }, 501, "UnsupportedOperationException", "has more than 8192 bytes"},
	{"ciphertext", []string{"decrypt"}, func(s *site) { s.body["authenticationTag"] = make([]byte, 16) }, 400, "InvalidCiphertextException", "are not as they were encrypted"},
}

// useQuota uses up the quota of the key store. The clock stands still.
func (s *site) useQuota() {
	ctx := s.t.Context()
	if _, err := s.bed.Appliance.SetQuota(ctx, "demo", 1); err != nil {
		s.t.Fatal(err)
	}
	s.undo = append(s.undo, func() {
		if _, err := s.bed.Appliance.SetQuota(context.WithoutCancel(ctx), "demo", 0); err != nil {
			s.t.Error(err)
		}
	})
	s.kms.OK("/health", xkstest.Body{"requestMetadata": xkstest.Metadata()})
}

func (s *site) block(target appliance.BlockTarget) {
	ctx := s.t.Context()
	if _, err := s.bed.Appliance.Block(ctx, target, target.String(), "alice"); err != nil {
		s.t.Fatal(err)
	}
	s.undo = append(s.undo, func() {
		if err := s.bed.Appliance.Unblock(ctx, target); err != nil {
			s.t.Error(err)
		}
	})
}

func (s *site) disable() {
	for _, key := range []string{"k", "encrypts", "decrypts"} {
		set := func(enabled bool) {
			if _, err := s.bed.Appliance.SetKeyEnabled(s.t.Context(), "demo", key, enabled); err != nil {
				s.t.Error(err)
			}
		}
		set(false)
		s.undo = append(s.undo, func() { set(true) })
	}
}

// otherUsage has the request name a key of another usage, unless it names one
// that is not there.
func (s *site) otherUsage() {
	if s.key == "absent" {
		return
	}
	s.key = map[string]string{"encrypt": "decrypts", "cdiv": "encrypts", "decrypt": "encrypts"}[s.operation]
}

// answer sends the request, and gives the answer and the line of the log.
func (s *site) answer() (a xkstest.Answer, line string) {
	kms := *s.kms
	kms.URL, kms.SecretAccessKey = s.bed.URL+s.prefix, s.secret
	path := "/health"
	if s.operation != "health" {
		path = "/keys/" + s.key + "/" + strings.Replace(s.operation, "cdiv", "encrypt", 1)
	}
	r := kms.Request(path, s.body.With("requestMetadata", s.metadata))
	r.Method = s.method
	before := len(s.bed.Log.String())
	out := httptest.NewRecorder()
	s.bed.API.ServeHTTP(out, r)
	lines := strings.Split(strings.TrimSpace(s.bed.Log.String()[before:]), "\n")
	return kms.Read(out.Result()), lines[len(lines)-1]
}

// with gives the answer to an operation of which the checks fail.
func with(t *testing.T, bed *xkstest.Bed, kms *xkstest.KMS, operation string, sealed xkstest.Body, fail ...check) (a xkstest.Answer, line string) {
	s := &site{t: t, bed: bed, kms: kms, operation: operation, prefix: "/demo", method: http.MethodPost, secret: kms.SecretAccessKey,
		key: "k", metadata: xkstest.Metadata(), body: xkstest.Body{}}
	switch operation {
	case "encrypt":
		s.body = xkstest.EncryptBody("x")
	case "cdiv":
		s.body = xkstest.EncryptBody("x").With("ciphertextDataIntegrityValueAlgorithm", "SHA_256")
	case "decrypt":
		s.body = xkstest.DecryptBody(sealed)
	}
	for _, c := range fail {
		c.fail(s)
	}
	a, line = s.answer()
	slices.Reverse(s.undo)
	for _, undo := range s.undo {
		undo()
	}
	return a, line
}

// TestOrderOfChecks: of each two checks that fail, the first answers, in the
// specification's words, for every operation that has both.
func TestOrderOfChecks(t *testing.T) {
	now := frozen()
	b := xkstest.Start(t, xkstest.Options{Appliance: appliance.Options{Now: now}})
	k := b.NewKeyStore(t, "demo", "/demo", xkstest.Principal)
	k.Now = now
	for id, usage := range map[string]string{"k": "encrypt,decrypt", "encrypts": "encrypt", "decrypts": "decrypt"} {
		b.NewKey(t, "demo", id, usage, appliance.CustodyCached)
	}
	sealed := k.OK("/keys/k/encrypt", xkstest.EncryptBody("x"))
	for _, operation := range all {
		var has []check
		for _, c := range checks {
			if slices.Contains(c.of, operation) {
				has = append(has, c)
			}
		}
		if a, line := with(t, b, k, operation, sealed); a.Status != http.StatusOK {
			t.Fatalf("%s: %d %s: %s", operation, a.Status, a.Text, line)
		}
		for i, first := range has {
			for _, second := range has[i:] {
				fail := []check{first, second}
				if second.name == first.name { // by itself
					fail = fail[:1]
				}
				a, line := with(t, b, k, operation, sealed, fail...)
				if a.Status != first.status || a.ErrorName() != first.error || !strings.Contains(line, first.reason) {
					t.Errorf("%s, failing %s and %s: %d %s: %s; want %d %s: %s", operation, first.name, second.name,
						a.Status, a.Text, line, first.status, first.error, first.reason)
				}
			}
		}
	}
}
