package conformance

import (
	"bytes"
	"context"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// validSignature is the check on which all others stand.
const validSignature = "sigv4/valid"

const authenticationFailed = "AuthenticationFailedException"

// signatureCase is a change to an honest call that makes it one to be refused.
type signatureCase struct {
	id, rule, source string
	// changes are tried one by one; each must be refused.
	changes []func(*session, *call)
}

// honestCall is the call that the cases change: an Encrypt, which succeeds
// without the change.
func (s *session) honestCall() call {
	return s.call(encrypt, s.target.KeyID, s.encryptBody([]byte("holdfast check, to be signed"), nil))
}

// authorization changes the Authorization header of the signed request.
func authorization(change func(string) string) func(*session, *call) {
	return func(_ *session, c *call) {
		c.tamper = func(r *http.Request) { r.Header.Set("Authorization", change(r.Header.Get("Authorization"))) }
	}
}

// header changes a header of the signed request.
func header(name, value string) func(*session, *call) {
	return func(_ *session, c *call) {
		c.tamper = func(r *http.Request) { r.Header.Set(name, value) }
	}
}

func forged(change func(*forgery)) func(*session, *call) {
	return func(_ *session, c *call) { c.forge = change }
}

func signedAt(offset time.Duration) func(*session, *call) {
	return func(_ *session, c *call) { c.at = time.Now().Add(offset) }
}

var signatureForm = regexp.MustCompile(`Signature=[0-9a-f]{64}`)

// otherSignature puts another text in the place of the signature.
func otherSignature(change func(string) string) func(*session, *call) {
	return authorization(func(h string) string {
		return signatureForm.ReplaceAllStringFunc(h, func(s string) string {
			return "Signature=" + change(strings.TrimPrefix(s, "Signature="))
		})
	})
}

func replaced(old, new string) func(string) string {
	return func(s string) string { return strings.Replace(s, old, new, 1) }
}

func constant(s string) func(string) string { return func(string) string { return s } }

// forgedSignatures must all be refused alike.
var forgedSignatures = []signatureCase{
	{"sigv4/wrong-secret", "A signature made with another secret access key is refused.", "spec: Appendix A, task 4",
		[]func(*session, *call){func(_ *session, c *call) { c.secret += "x" }}},
	{"sigv4/unknown-access-key", "An access key ID that the proxy does not know is refused.", "spec: Appendix A, task 3",
		[]func(*session, *call){func(_ *session, c *call) { c.accessKeyID = "HOLDFASTCHECKNOSUCHKEY" }}},
	{"sigv4/no-authorization", "A request without an Authorization header is refused.", "spec: Authentication",
		[]func(*session, *call){func(_ *session, c *call) {
			c.tamper = func(r *http.Request) { r.Header.Del("Authorization") }
		}}},
	{"sigv4/malformed-authorization", "An Authorization header that is not of the form of Signature Version 4 is refused.", "spec: Appendix A",
		[]func(*session, *call){
			authorization(constant("")),
			authorization(constant("Bearer eyJhbGciOiJub25lIn0.e30.")),
			authorization(constant(algorithm)),
			authorization(constant(algorithm + " Credential=")),
			authorization(constant(algorithm + " Credential=////, SignedHeaders=, Signature=")),
			authorization(replaced("/"+terminator, "")),
			authorization(replaced("/"+terminator, "/"+terminator+"/"+terminator)),
			authorization(func(h string) string { return h[:strings.Index(h, ", SignedHeaders")] }),
			authorization(func(h string) string { return h[:strings.Index(h, ", Signature")] }),
			authorization(func(h string) string {
				return algorithm + " " + h[strings.Index(h, "SignedHeaders"):]
			}),
		}},
	{"sigv4/wrong-algorithm", "An algorithm other than AWS4-HMAC-SHA256 is refused.", "spec: Appendix A, task 2",
		[]func(*session, *call){authorization(replaced(algorithm, "AWS4-HMAC-SHA1")), authorization(replaced(algorithm, "AWS4-ECDSA-P256-SHA256"))}},
	{"sigv4/wrong-service", "A signature for a service other than kms-xks-proxy is refused.", "spec: Appendix A, task 3",
		[]func(*session, *call){
			func(_ *session, c *call) { c.service = "kms" },
			authorization(replaced("/"+service+"/", "/kms/")),
		}},
	{"sigv4/wrong-terminator", "A credential scope that does not end in aws4_request is refused.", "spec: Appendix A",
		[]func(*session, *call){
			authorization(replaced(terminator, "aws5_request")),
			forged(func(f *forgery) { f.setScope(func(s *scope) { s.terminator = "aws5_request" }) }),
			forged(func(f *forgery) { f.scope.terminator = "aws5_request" }),
		}},
	{"sigv4/scope-date", "A credential scope whose date is not that of x-amz-date is refused.", "spec: Appendix A",
		[]func(*session, *call){
			forged(func(f *forgery) { f.setScope(func(s *scope) { s.date = yesterday(f.stamp) }) }),
			forged(func(f *forgery) { f.scope.date = yesterday(f.stamp) }),
		}},
	{"sigv4/expired", "A request signed 6 minutes ago is refused.", "spec: Appendix A, task 4",
		[]func(*session, *call){signedAt(-6 * time.Minute)}},
	{"sigv4/future", "A request signed 6 minutes in the future is refused.", "spec: Appendix A, task 4",
		[]func(*session, *call){signedAt(6 * time.Minute)}},
	{"sigv4/long-expired", "A request signed a day or a year ago is refused.", "spec: Appendix A, task 4",
		[]func(*session, *call){signedAt(-24 * time.Hour), signedAt(-365 * 24 * time.Hour)}},
	{"sigv4/no-date", "A request without x-amz-date, or with one that is no time, is refused.", "spec: Appendix A, task 1",
		[]func(*session, *call){
			func(_ *session, c *call) { c.tamper = func(r *http.Request) { r.Header.Del("X-Amz-Date") } },
			header("X-Amz-Date", "yesterday"),
			header("X-Amz-Date", "20261332T256161Z"),
		}},
	{"sigv4/host-not-signed", "A signature that does not cover the host is refused.", "spec: Appendix A, task 1",
		[]func(*session, *call){forged(func(f *forgery) { f.signed = []string{"x-amz-date"} })}},
	{"sigv4/date-not-signed", "A signature that does not cover x-amz-date is refused.", "spec: Appendix A, task 1",
		[]func(*session, *call){forged(func(f *forgery) { f.signed = []string{"host"} })}},
	{"sigv4/nothing-signed", "A signature that covers no header is refused.", "spec: Appendix A, task 1",
		[]func(*session, *call){forged(func(f *forgery) { f.signed = nil })}},
	{"sigv4/changed-body", "A body changed after it was signed is refused.", "spec: Appendix A, task 1",
		[]func(*session, *call){
			func(_ *session, c *call) {
				c.sent = bytes.Replace(c.body, []byte(`"AES_GCM"`), []byte(`"AES_GCM" `), 1)
			},
			func(_ *session, c *call) { c.sent = append(bytes.Clone(c.body), '\n') },
		}},
	{"sigv4/changed-path", "A signature made for another path is refused.", "spec: Appendix A, task 1",
		[]func(*session, *call){
			func(s *session, c *call) {
				path := c.path
				c.path = s.path(getKeyMetadata, s.target.KeyID)
				c.tamper = func(r *http.Request) { r.URL.Path = path }
			},
			func(s *session, c *call) {
				path := c.path
				c.path = s.path(encrypt, "another-key")
				c.tamper = func(r *http.Request) { r.URL.Path = path }
			},
		}},
	{"sigv4/changed-method", "A signature made for another method is refused.", "spec: Appendix A, task 1",
		[]func(*session, *call){func(_ *session, c *call) {
			c.method = http.MethodPut
			c.tamper = func(r *http.Request) { r.Method = http.MethodPost }
		}}},
	{"sigv4/changed-header", "A signed header changed after it was signed, or left out, is refused.", "spec: Appendix A, task 1",
		[]func(*session, *call){
			func(_ *session, c *call) {
				c.header = http.Header{"X-Holdfast-Check": {"one"}}
				c.tamper = func(r *http.Request) { r.Header.Set("X-Holdfast-Check", "two") }
			},
			func(_ *session, c *call) {
				c.header = http.Header{"X-Holdfast-Check": {"one"}}
				c.tamper = func(r *http.Request) { r.Header.Del("X-Holdfast-Check") }
			},
		}},
	{"sigv4/changed-date", "An x-amz-date changed after it was signed is refused.", "spec: Appendix A, task 2",
		[]func(*session, *call){func(_ *session, c *call) {
			stamp := c.at.Add(-time.Minute).UTC().Format(stampLayout)
			c.tamper = func(r *http.Request) { r.Header.Set("X-Amz-Date", stamp) }
		}}},
	{"sigv4/added-query", "A query string added after signing is refused.", "spec: Appendix A, task 1",
		[]func(*session, *call){func(_ *session, c *call) {
			c.tamper = func(r *http.Request) { r.URL.RawQuery = "a=1" }
		}}},
	{"sigv4/garbage-signature", "A signature that is cut off, extended, not hexadecimal or constant is refused.", "spec: Appendix A, task 4",
		[]func(*session, *call){
			otherSignature(constant("")),
			otherSignature(constant(strings.Repeat("0", 64))),
			otherSignature(constant(strings.Repeat("z", 64))),
			otherSignature(func(s string) string { return s[:2] }),
			otherSignature(func(s string) string { return s[:63] }),
			otherSignature(func(s string) string { return s + "00" }),
		}},
}

// signatureChecks are the honest signatures, which must be taken, and then the
// forged ones.
func signatureChecks() []check {
	list := []check{
		{id: validSignature, rule: "A request signed like KMS signs, over host and x-amz-date, is accepted.", source: "spec: Appendix A", run: checkValidSignature},
		{id: "sigv4/kms-credential", rule: "The credential is one that KMS takes: an access key ID of 20 to 30 letters A-Z and digits 2-7, a secret of 43 to 64 of A-Z, a-z, 0-9, /, + and =.",
			source: "spec: XKS proxy configuration in AWS KMS console", run: checkCredentialForm},
		{id: "sigv4/clock", rule: "The clocks of the proxy and of this machine agree within a minute.", source: "spec: Appendix A, task 4", run: checkClock},
		{id: "sigv4/more-signed-headers", rule: "A signature that covers further headers is accepted.", source: "spec: Appendix A, task 1",
			run: accepted(func(_ *session, c *call) {
				c.header = http.Header{"Content-Type": {jsonType}, "X-Holdfast-Check": {"a  b "}}
			})},
		{id: "sigv4/skew", rule: "A request signed 4 minutes ago, or ahead, is accepted.", source: "spec: Appendix A, task 4",
			run: accepted(signedAt(-4*time.Minute), signedAt(4*time.Minute))},
		{id: "sigv4/other-region", rule: "The Region comes from the credential scope, so that the proxy can serve several.", source: "spec: Appendix A", run: checkOtherRegion},
		{id: "sigv4/uppercase-signature", rule: "The signature is compared as the lower-case hexadecimal text that it is.", source: "AWS Signature Version 4", run: checkUppercase},
	}
	for _, c := range forgedSignatures {
		list = append(list, check{id: c.id, rule: c.rule, source: c.source, run: func(ctx context.Context, s *session) verdict {
			return each(c.changes, func(change func(*session, *call)) verdict {
				call := s.honestCall()
				change(s, &call)
				return wantError(s.send(ctx, call), authenticationFailed)
			})
		}})
	}
	return append(list,
		check{id: "sigv4/replay", rule: "A signature seen on one request is refused with another body.", source: "spec: Appendix A, task 1", run: checkReplay},
		check{id: "sigv4/every-operation", rule: "Each of the four operations demands the signature.", source: "spec: Authentication", run: checkEveryOperation},
		check{id: "sigv4/one-answer", rule: "The answer to a bad signature never tells which part of it was bad.", source: "good practice: what authenticates does not explain", run: checkOneAnswer},
	)
}

func checkValidSignature(ctx context.Context, s *session) verdict {
	a := s.ask(ctx, getKeyMetadata, s.target.KeyID, s.request(getKeyMetadata))
	switch {
	case a.status == http.StatusUnauthorized:
		return fail("%v: compare the access key, the secret and the clocks", a)
	case a.status == 0 || a.status >= 500:
		return fail("%v", a)
	}
	return pass("%v", a) // whether it is the right answer is for other checks
}

var (
	accessKeyForm = regexp.MustCompile(`^[A-Z2-7]{20,30}$`)
	secretForm    = regexp.MustCompile(`^[A-Za-z0-9/+=]{43,64}$`)
)

func checkCredentialForm(_ context.Context, s *session) verdict {
	switch {
	case !accessKeyForm.MatchString(s.target.AccessKeyID):
		return warn("KMS would not take the access key ID")
	case !secretForm.MatchString(s.target.SecretAccessKey):
		return warn("KMS would not take the secret access key")
	}
	return pass("KMS takes it")
}

func checkClock(ctx context.Context, s *session) verdict {
	a := s.ask(ctx, getHealthStatus, "", s.request(getHealthStatus))
	there, err := http.ParseTime(a.header.Get("Date"))
	if err != nil {
		return notRun("the answer has no Date")
	}
	skew := time.Until(there).Round(time.Second)
	if skew.Abs() > time.Minute {
		return warn("the proxy's clock differs by %v", skew)
	}
	return pass("within %v", max(skew.Abs(), time.Second))
}

// accepted tries changes to an honest call that leave it honest.
func accepted(changes ...func(*session, *call)) func(context.Context, *session) verdict {
	return func(ctx context.Context, s *session) verdict {
		return each(changes, func(change func(*session, *call)) verdict {
			c := s.honestCall()
			change(s, &c)
			return wantOK(s.send(ctx, c))
		})
	}
}

func checkOtherRegion(ctx context.Context, s *session) verdict {
	c := s.honestCall()
	c.region = "eu-central-1"
	if s.target.Region == c.region {
		c.region = "us-east-1"
	}
	a := s.send(ctx, c)
	if a.status == http.StatusUnauthorized {
		return warn("%v for Region %s: only some Regions are allowed here", a, c.region)
	}
	return wantOK(a)
}

// checkUppercase only warns: whoever can make the signature can write it in
// upper case, so that no harm is done.
func checkUppercase(ctx context.Context, s *session) verdict {
	c := s.honestCall()
	otherSignature(strings.ToUpper)(s, &c)
	a := s.send(ctx, c)
	if a.ok() {
		return warn("%v for an upper-case signature", a)
	}
	return wantError(a, authenticationFailed)
}

func checkReplay(ctx context.Context, s *session) verdict {
	first := s.honestCall()
	var used http.Header
	first.tamper = func(r *http.Request) { used = r.Header.Clone() }
	if a := s.send(ctx, first); !a.ok() {
		return notRun("needs a successful Encrypt: %v", a)
	}
	second := s.honestCall()
	second.body = encode(s.encryptBody([]byte("another plaintext"), nil))
	second.tamper = func(r *http.Request) { r.Header = used.Clone() }
	return wantError(s.send(ctx, second), authenticationFailed)
}

func checkEveryOperation(ctx context.Context, s *session) verdict {
	return each(operations, func(op operation) verdict {
		c := s.call(op, s.target.KeyID, s.request(op))
		c.secret += "x"
		return wantError(s.send(ctx, c), authenticationFailed).at(op.name)
	})
}

// checkOneAnswer looks at some that differ in what is bad; what the other
// checks have seen is looked at as well.
func checkOneAnswer(ctx context.Context, s *session) verdict {
	for _, c := range forgedSignatures[:3] {
		call := s.honestCall()
		c.changes[0](s, &call)
		s.during(c.id).send(ctx, call)
	}
	return s.seen.oneMessage()
}
