package conformance

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// The limits of the specification.
const (
	maxPlaintext   = 4300 // Encrypt, request 2
	maxAAD         = 8192 // Encrypt, request 4
	maxARN         = 2048 // API operations
	maxMetadata    = 20   // Encrypt, response 2
	tagSize        = 16   // Encrypt, response 4
	maxKeyUsages   = 10   // GetKeyMetadata, response 2
	maxFleet       = 10   // GetHealthStatus, response payload
	algorithmGCM   = "AES_GCM"
	algorithmCDIV  = "SHA_256"
	healthSource   = "spec: GetHealthStatus, response payload"
	metadataSource = "spec: GetKeyMetadata, response"
	requestSource  = "spec: Encrypt, request 1"
)

// sealed is what Encrypt answers and Decrypt is given.
type sealed struct {
	ciphertext, metadata, iv, tag, cdiv []byte
	// bare: there is no ciphertextMetadata, which is not the same as an empty one.
	bare bool
}

func (c sealed) clone() sealed {
	return sealed{bytes.Clone(c.ciphertext), bytes.Clone(c.metadata), bytes.Clone(c.iv), bytes.Clone(c.tag), bytes.Clone(c.cdiv), c.bare}
}

func base64Of(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// encryptBody is the body of an Encrypt request. A nil aad is left out.
func (s *session) encryptBody(plaintext, aad []byte) object {
	b := s.request(encrypt).with("plaintext", base64Of(plaintext)).with("encryptionAlgorithm", algorithmGCM)
	if aad != nil {
		b["additionalAuthenticatedData"] = base64Of(aad)
	}
	return b
}

// decryptBody is the body of a Decrypt request. A nil aad is left out.
func (s *session) decryptBody(c sealed, aad []byte) object {
	b := s.request(decrypt).with("encryptionAlgorithm", algorithmGCM)
	b["ciphertext"], b["initializationVector"], b["authenticationTag"] = base64Of(c.ciphertext), base64Of(c.iv), base64Of(c.tag)
	if !c.bare {
		b["ciphertextMetadata"] = base64Of(c.metadata)
	}
	if aad != nil {
		b["additionalAuthenticatedData"] = base64Of(aad)
	}
	return b
}

// body is a proper body for any operation. That for Decrypt is of a ciphertext
// that nobody made: it serves where an earlier refusal is looked for.
func (s *session) body(op operation) object {
	switch op {
	case encrypt:
		return s.encryptBody([]byte("holdfast check"), nil)
	case decrypt:
		return s.decryptBody(sealed{ciphertext: make([]byte, 14), iv: make([]byte, 12), tag: make([]byte, tagSize), bare: true}, nil)
	}
	return s.request(op)
}

// base64Field reads a field in standard Base64 (RFC 4648 section 4).
func (a answer) base64Field(name string) ([]byte, error) {
	text, ok := a.fields[name].(string)
	if !ok {
		return nil, fmt.Errorf("the field %s is missing, or not a string", name)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || base64Of(b) != text {
		return nil, fmt.Errorf("the field %s is not in standard Base64", name)
	}
	return b, nil
}

// sealed reads the answer to an Encrypt request.
func (a answer) sealed() (sealed, error) {
	c := sealed{bare: true}
	if !a.ok() {
		return c, fmt.Errorf("needs a successful Encrypt: %v", a)
	}
	for _, field := range []struct {
		name     string
		value    *[]byte
		required bool
	}{
		{"ciphertext", &c.ciphertext, true}, {"initializationVector", &c.iv, true}, {"authenticationTag", &c.tag, true},
		{"ciphertextMetadata", &c.metadata, false}, {"ciphertextDataIntegrityValue", &c.cdiv, false},
	} {
		if _, present := a.fields[field.name]; !present && !field.required {
			continue
		}
		var err error
		if *field.value, err = a.base64Field(field.name); err != nil {
			return c, err
		}
	}
	_, hasMetadata := a.fields["ciphertextMetadata"]
	c.bare = !hasMetadata
	return c, nil
}

// encrypt encrypts with the key for all uses.
func (s *session) encrypt(ctx context.Context, plaintext, aad []byte) (sealed, error) {
	return s.ask(ctx, encrypt, s.target.KeyID, s.encryptBody(plaintext, aad)).sealed()
}

// sealedShape looks at one Encrypt answer with one eye.
func sealedShape(look func(plaintext []byte, c sealed) verdict) func(context.Context, *session) verdict {
	return func(ctx context.Context, s *session) verdict {
		return each([]int{1, 16, 32, 333}, func(size int) verdict {
			plaintext := random(size)
			c, err := s.encrypt(ctx, plaintext, []byte("context"))
			if err != nil {
				return fail("%v", err)
			}
			return look(plaintext, c)
		})
	}
}

// healthShape and metadataShape look at one answer likewise.
func healthShape(look func(map[string]any) verdict) func(context.Context, *session) verdict {
	return func(ctx context.Context, s *session) verdict {
		a := s.ask(ctx, getHealthStatus, "", s.request(getHealthStatus))
		if !a.ok() {
			return wantOK(a)
		}
		return look(a.fields)
	}
}

func metadataShape(look func(map[string]any) verdict) func(context.Context, *session) verdict {
	return func(ctx context.Context, s *session) verdict {
		a := s.ask(ctx, getKeyMetadata, s.target.KeyID, s.request(getKeyMetadata))
		if !a.ok() {
			return wantOK(a)
		}
		return look(a.fields)
	}
}

// shapeChecks are about good answers to good requests.
var shapeChecks = []check{
	{id: "health/success", rule: "GetHealthStatus succeeds.", source: "spec: GetHealthStatus",
		run: healthShape(func(map[string]any) verdict { return pass("200") })},
	{id: "health/fields", rule: "The names of proxy and key manager, vendor and model, are all there.", source: healthSource + " 2-4",
		run: healthShape(func(f map[string]any) verdict { return texts(f, "xksProxyVendor", "xksProxyModel", "ekmVendor") })},
	{id: "health/fleet-size", rule: "xksProxyFleetSize is an integer greater than zero.", source: healthSource + " 1",
		run: healthShape(func(f map[string]any) verdict {
			number, _ := f["xksProxyFleetSize"].(json.Number)
			if n, err := number.Int64(); err != nil || n <= 0 {
				return fail("it is not")
			}
			return pass("%s", number)
		})},
	{id: "health/ekm-count", rule: "ekmFleetDetails has at least one entry and no more than ten.", source: healthSource,
		run: healthShape(func(f map[string]any) verdict {
			fleet, _ := f["ekmFleetDetails"].([]any)
			if len(fleet) < 1 || len(fleet) > maxFleet {
				return fail("%d entries", len(fleet))
			}
			return pass("%d entries", len(fleet))
		})},
	{id: "health/ekm-fields", rule: "Each external key manager has a unique id, a model and a healthStatus of ACTIVE, DEGRADED or UNAVAILABLE.", source: healthSource + " 5-7",
		run: healthShape(checkFleet)},
	{id: "health/usable", rule: "A key manager that serves requests is not reported UNAVAILABLE by all entries.", source: healthSource + " 7",
		run: healthShape(func(f map[string]any) verdict {
			fleet, _ := f["ekmFleetDetails"].([]any)
			if slices.ContainsFunc(fleet, func(e any) bool { m, _ := e.(map[string]any); return m["healthStatus"] != "UNAVAILABLE" }) {
				return pass("at least one can serve")
			}
			return warn("all are UNAVAILABLE: KMS would not connect to this key store")
		})},
	{id: "metadata/success", rule: "GetKeyMetadata of an existing key succeeds.", source: "spec: GetKeyMetadata",
		run: metadataShape(func(map[string]any) verdict { return pass("200") })},
	{id: "metadata/key-spec", rule: "keySpec is AES_256.", source: metadataSource + " 1",
		run: metadataShape(func(f map[string]any) verdict {
			if f["keySpec"] != "AES_256" {
				return fail("it is not")
			}
			return pass("AES_256")
		})},
	{id: "metadata/key-usage", rule: "keyUsage is an array of at most ten strings, with ENCRYPT and DECRYPT for a key that does both.", source: metadataSource + " 2",
		run: func(ctx context.Context, s *session) verdict { return s.usages(ctx, s.target.KeyID, true, true) }},
	{id: "metadata/key-status", rule: "keyStatus is ENABLED for an enabled key.", source: metadataSource + " 3",
		run: metadataShape(func(f map[string]any) verdict {
			if f["keyStatus"] != "ENABLED" {
				return fail("it is not")
			}
			return pass("ENABLED")
		})},
	{id: "encrypt/fields", rule: "The answer has ciphertext, initializationVector and authenticationTag, in standard Base64.", source: "spec: Encrypt, response payload",
		run: sealedShape(func(_ []byte, c sealed) verdict { return pass("all there") })},
	{id: "encrypt/ciphertext-length", rule: "The ciphertext is as long as the plaintext, and is not the plaintext.", source: "spec: Encrypt, response 1",
		run: sealedShape(func(plaintext []byte, c sealed) verdict {
			if len(c.ciphertext) != len(plaintext) {
				return fail("%d bytes for %d of plaintext", len(c.ciphertext), len(plaintext))
			}
			// A short plaintext may meet its ciphertext by chance.
			if len(plaintext) >= 16 && bytes.Equal(c.ciphertext, plaintext) {
				return fail("the ciphertext is the plaintext")
			}
			return pass("%d bytes", len(c.ciphertext))
		})},
	{id: "encrypt/metadata-length", rule: "ciphertextMetadata, if any, has at most 20 bytes.", source: "spec: Encrypt, response 2",
		run: sealedShape(func(_ []byte, c sealed) verdict {
			if len(c.metadata) > maxMetadata {
				return fail("%d bytes", len(c.metadata))
			}
			return pass("%d bytes", len(c.metadata))
		})},
	{id: "encrypt/iv-length", rule: "The initialization vector has 12 or 16 bytes.", source: "spec: Encrypt, response 3",
		run: sealedShape(func(_ []byte, c sealed) verdict {
			if n := len(c.iv); n != 12 && n != 16 {
				return fail("%d bytes", n)
			}
			return pass("%d bytes", len(c.iv))
		})},
	{id: "encrypt/tag-length", rule: "The authentication tag has 16 bytes.", source: "spec: Encrypt, response 4",
		run: sealedShape(func(_ []byte, c sealed) verdict {
			if len(c.tag) != tagSize {
				return fail("%d bytes", len(c.tag))
			}
			return pass("16 bytes")
		})},
	{id: "encrypt/fresh-iv", rule: "No two encryptions have the same initialization vector.", source: "NIST SP 800-38D section 8",
		run: checkFreshIV},
	{id: "tolerance/unknown-fields", rule: "Fields of requestMetadata that are not known are tolerated: KMS may add some.", source: "spec: Appendix B",
		run: tolerated(map[string]any{"sourceIdentity": "alice", "kmsRecipientAttestationPCR0": "00", "tags": object{"a": []string{"b"}}, "n": 1, "z": nil})},
	{id: "tolerance/optional-fields", rule: "The optional fields awsSourceVpc, awsSourceVpce and kmsViaService are taken.", source: "spec: Encrypt, request 1.2, 1.3 and 1.7",
		run: tolerated(map[string]any{"awsSourceVpc": "vpc-111bbb22", "awsSourceVpce": "vpce-1a2b3c4d", "kmsViaService": "ebs"})},
	{id: "tolerance/kms-operation", rule: "A kmsOperation that is not known is not invalid, though authorization may refuse it.", source: requestSource + ".5",
		run: allowingDenial(map[string]any{"kmsOperation": "BulkReencryptOfTheFuture"})},
	{id: "tolerance/service-principal", rule: "awsPrincipalArn may be a service principal or \"AWS Internal\", though authorization may refuse it.", source: requestSource + ".1",
		run: func(ctx context.Context, s *session) verdict {
			return each([]string{"ec2.amazonaws.com", "AWS Internal"}, func(principal string) verdict {
				return allowingDenial(map[string]any{"awsPrincipalArn": principal})(ctx, s).at(principal)
			})
		}},
	{id: "tolerance/request-id", rule: "kmsRequestId is opaque: any string is taken.", source: requestSource + ".6",
		run: func(ctx context.Context, s *session) verdict {
			return each(oddRequestIDs, func(id struct{ what, value string }) verdict {
				return tolerated(map[string]any{"kmsRequestId": id.value})(ctx, s).at(id.what)
			})
		}},
}

var oddRequestIDs = []struct{ what, value string }{
	{"an empty one", ""},
	{"a space", " "},
	{"no UUID", "request-1"},
	{"quotes and control characters", "a\"b\\c\n\x00\x1b[31m"},
	{"not ASCII", "запрос-要求-🔑"},
	{"1024 characters", strings.Repeat("r", 1024)},
}

// tolerated sends further requestMetadata, which must not disturb.
func tolerated(fields map[string]any) func(context.Context, *session) verdict {
	return withMetadata(fields, wantOK)
}

func allowingDenial(fields map[string]any) func(context.Context, *session) verdict {
	return withMetadata(fields, func(a answer) verdict {
		if v := wantError(a, accessDenied); v.outcome == Pass {
			return v
		}
		return wantOK(a)
	})
}

// withMetadata tries those operations that can succeed without another before.
func withMetadata(fields map[string]any, judge func(answer) verdict) func(context.Context, *session) verdict {
	return func(ctx context.Context, s *session) verdict {
		return each([]operation{getHealthStatus, getKeyMetadata, encrypt}, func(op operation) verdict {
			body := s.body(op).metadata(func(m object) object {
				for name, value := range fields {
					m = m.with(name, value)
				}
				return m
			})
			return judge(s.ask(ctx, op, s.target.KeyID, body)).at(op.name)
		})
	}
}

// texts demands that fields are strings that say something.
func texts(f map[string]any, names ...string) verdict {
	for _, name := range names {
		if text, _ := f[name].(string); text == "" {
			return fail("the field %s is missing, empty or not a string", name)
		}
	}
	return pass("all there")
}

func checkFleet(f map[string]any) verdict {
	fleet, _ := f["ekmFleetDetails"].([]any)
	ids := map[any]bool{}
	for i, entry := range fleet {
		manager, _ := entry.(map[string]any)
		if v := texts(manager, "id", "model", "healthStatus"); v.outcome != Pass {
			return v.at(fmt.Sprintf("entry %d", i))
		}
		if !slices.Contains([]any{"ACTIVE", "DEGRADED", "UNAVAILABLE"}, manager["healthStatus"]) {
			return fail("entry %d has another healthStatus", i)
		}
		if ids[manager["id"]] {
			return fail("entry %d has the id of another", i)
		}
		ids[manager["id"]] = true
	}
	if len(fleet) == 0 {
		return fail("no entries")
	}
	return pass("%d entries", len(fleet))
}

// usages demands that a key's metadata lists exactly these two usages; a proxy
// may add others that are not of this API.
func (s *session) usages(ctx context.Context, keyID string, mayEncrypt, mayDecrypt bool) verdict {
	a := s.ask(ctx, getKeyMetadata, keyID, s.request(getKeyMetadata))
	if !a.ok() {
		return wantOK(a)
	}
	list, ok := a.fields["keyUsage"].([]any)
	if !ok || len(list) > maxKeyUsages {
		return fail("not an array of at most ten")
	}
	for _, usage := range list {
		if _, ok := usage.(string); !ok {
			return fail("not an array of strings")
		}
	}
	if slices.Contains(list, any("ENCRYPT")) != mayEncrypt {
		return fail("ENCRYPT is listed: %t", !mayEncrypt)
	}
	if slices.Contains(list, any("DECRYPT")) != mayDecrypt {
		return fail("DECRYPT is listed: %t", !mayDecrypt)
	}
	return pass("ENCRYPT is listed: %t, DECRYPT: %t", mayEncrypt, mayDecrypt)
}

func checkFreshIV(ctx context.Context, s *session) verdict {
	const times = 8
	seen := map[string]bool{}
	for range times {
		c, err := s.encrypt(ctx, []byte("the same plaintext"), nil)
		if err != nil {
			return fail("%v", err)
		}
		seen[string(c.iv)] = true
	}
	if len(seen) != times {
		return fail("%d encryptions with %d initialization vectors", times, len(seen))
	}
	return pass("%d encryptions, all different", times)
}
