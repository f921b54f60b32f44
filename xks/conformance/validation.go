package conformance

import (
	"context"
	"strings"
)

const validationSource = "spec: Error codes, ValidationException"

// requiredMetadata are the required fields of requestMetadata.
var requiredMetadata = map[operation][]string{
	getHealthStatus: {"kmsRequestId", "kmsOperation"},
	getKeyMetadata:  {"awsPrincipalArn", "kmsOperation", "kmsRequestId"},
	encrypt:         {"awsPrincipalArn", "kmsKeyArn", "kmsOperation", "kmsRequestId"},
	decrypt:         {"awsPrincipalArn", "kmsKeyArn", "kmsOperation", "kmsRequestId"},
}

// requiredFields are those beside it.
var requiredFields = map[operation][]string{
	encrypt: {"plaintext", "encryptionAlgorithm"},
	decrypt: {"ciphertext", "encryptionAlgorithm", "initializationVector", "authenticationTag"},
}

// refusals are the errors by which a proxy may call a field of an operation
// invalid. For a ciphertext, "missing or otherwise invalid" has a name of its
// own (spec, Error codes).
func refusals(op operation, field string) []string {
	switch {
	case op == decrypt && field != "encryptionAlgorithm" && field != "requestMetadata":
		return []string{validationException, invalidCiphertext}
	case strings.HasSuffix(strings.ToLower(field), "algorithm"):
		return []string{validationException, unsupportedOperation}
	}
	return []string{validationException}
}

// wrongBodies are bodies that are no request at all.
var wrongBodies = []struct {
	id, rule string
	make     func(object) []byte
}{
	{"not-json", "A body that is not JSON is answered ValidationException.", func(object) []byte { return []byte("plaintext=SGVsbG8=") }},
	{"empty-body", "An empty body is answered ValidationException.", func(object) []byte { return []byte{} }},
	{"cut-off", "A body that is cut off is answered ValidationException.", func(o object) []byte { b := encode(o); return b[:len(b)-1] }},
	{"array", "A body that is a JSON array is answered ValidationException.", func(o object) []byte { return encode([]object{o}) }},
	{"null", "A body that is the JSON null is answered ValidationException.", func(object) []byte { return []byte("null") }},
	{"trailing-garbage", "A body with anything after the JSON object is answered ValidationException.", func(o object) []byte { return append(encode(o), "garbage"...) }},
	{"two-objects", "A body of two JSON objects is answered ValidationException.", func(o object) []byte { return append(encode(o), encode(o)...) }},
	{"deep-nesting", "A body that is nested deeply is answered ValidationException.", func(object) []byte {
		return []byte(`{"requestMetadata":{"a":` + strings.Repeat("[", 20000))
	}},
}

// wrongValues are values of a wrong type or form.
var wrongValues = []struct {
	id, rule string
	op       operation
	field    string // "requestMetadata.x" for a field of it
	values   []any
}{
	{"metadata-type", "requestMetadata that are not an object are answered ValidationException.", getKeyMetadata, "requestMetadata", []any{"text", 1, []any{}, nil}},
	{"health-metadata-type", "The same on GetHealthStatus.", getHealthStatus, "requestMetadata", []any{"text", 1, []any{}, nil}},
	{"request-id-type", "A kmsRequestId that is not a string is answered ValidationException.", encrypt, "requestMetadata.kmsRequestId", []any{1, object{}, true, nil}},
	{"principal-type", "An awsPrincipalArn that is not a string is answered ValidationException.", encrypt, "requestMetadata.awsPrincipalArn", []any{1, []string{"arn:aws:iam::123456789012:root"}, nil}},
	{"plaintext-type", "A plaintext that is not a string is answered ValidationException.", encrypt, "plaintext", []any{1, []int{72, 105}, object{}, nil}},
	{"plaintext-base64", "A plaintext that is not Base64 is answered ValidationException.", encrypt, "plaintext", []any{"!!!!", "SGVsbG8", "SGVs\x00bG8="}},
	{"plaintext-base64url", "A plaintext in URL-safe Base64 is answered ValidationException.", encrypt, "plaintext", []any{"-_-_", "__8="}},
	{"aad-type", "additionalAuthenticatedData that are not a string are answered ValidationException.", encrypt, "additionalAuthenticatedData", []any{1, object{"project": "nile"}}},
	{"aad-base64", "additionalAuthenticatedData that are not standard Base64 are answered ValidationException.", encrypt, "additionalAuthenticatedData", []any{"project=nile", "-_-_"}},
	{"algorithm-type", "An encryptionAlgorithm that is not a string is answered ValidationException.", encrypt, "encryptionAlgorithm", []any{1, nil, []string{algorithmGCM}}},
	{"algorithm", "An encryptionAlgorithm that is not known is answered ValidationException or UnsupportedOperationException.", encrypt, "encryptionAlgorithm", []any{"AES_CBC", "aes_gcm", "", "RSAES_OAEP_SHA_256"}},
	{"decrypt-algorithm", "The same on Decrypt.", decrypt, "encryptionAlgorithm", []any{"AES_CBC", "aes_gcm", ""}},
	{"cdiv-algorithm", "A ciphertextDataIntegrityValueAlgorithm that is not known is answered ValidationException or UnsupportedOperationException.", encrypt, "ciphertextDataIntegrityValueAlgorithm", []any{"SHA_1", "sha256", ""}},
	{"ciphertext-base64", "A ciphertext that is not standard Base64 is refused (ValidationException or InvalidCiphertextException).", decrypt, "ciphertext", []any{"!!!!", "-_-_", 1}},
	{"metadata-base64", "ciphertextMetadata that are not standard Base64 are refused (ValidationException or InvalidCiphertextException).", decrypt, "ciphertextMetadata", []any{"!!!!", "-_-_", 1}},
	{"iv-base64", "An initializationVector that is not standard Base64 is refused (ValidationException or InvalidCiphertextException).", decrypt, "initializationVector", []any{"!!!!", "-_-_", 1}},
	{"tag-base64", "An authenticationTag that is not standard Base64 is refused (ValidationException or InvalidCiphertextException).", decrypt, "authenticationTag", []any{"!!!!", "-_-_", 1}},
}

// validationChecks are about what is missing or malformed.
func validationChecks() []check {
	var list []check
	for _, op := range operations {
		list = append(list,
			check{id: "validation/" + op.word + "-no-metadata", rule: op.name + " without requestMetadata is answered ValidationException.", source: validationSource,
				run: refuses(op, validationException, func(o object) []object { return []object{o.without("requestMetadata")} })},
			check{id: "validation/" + op.word + "-empty-metadata", rule: op.name + " with empty requestMetadata is answered ValidationException.", source: validationSource,
				run: refuses(op, validationException, func(o object) []object { return []object{o.with("requestMetadata", object{})} })})
		for _, field := range requiredMetadata[op] {
			list = append(list, check{id: "validation/" + op.word + "-no-" + field, rule: op.name + " without requestMetadata." + field + ", which is required, is answered ValidationException.",
				source: "spec: " + op.name + ", request 1",
				run: refuses(op, validationException, func(o object) []object {
					return []object{o.metadata(func(m object) object { return m.without(field) })}
				})})
		}
		for _, field := range requiredFields[op] {
			names := refusals(op, field)
			if field == "encryptionAlgorithm" {
				names = names[:1] // it is missing, not unsupported
			}
			list = append(list, check{id: "validation/" + op.word + "-no-" + field, rule: op.name + " without the field " + field + ", which is required, is answered " + strings.Join(names, " or ") + ".",
				source: "spec: " + op.name + ", request",
				run:    refusesAs(op, names, func(o object) []object { return []object{o.without(field)} })})
		}
	}
	for _, w := range wrongBodies {
		list = append(list, check{id: "validation/" + w.id, rule: w.rule, source: validationSource,
			run: func(ctx context.Context, s *session) verdict {
				return each(operations, func(op operation) verdict {
					return wantError(s.ask(ctx, op, s.target.KeyID, w.make(s.body(op))), validationException).at(op.name)
				})
			}})
	}
	for _, w := range wrongValues {
		list = append(list, check{id: "validation/" + w.id, rule: w.rule, source: validationSource,
			run: refusesAs(w.op, refusals(w.op, w.field), func(o object) []object {
				bodies := make([]object, len(w.values))
				for i, value := range w.values {
					if field, inside := strings.CutPrefix(w.field, "requestMetadata."); inside {
						bodies[i] = o.metadata(func(m object) object { return m.with(field, value) })
					} else {
						bodies[i] = o.with(w.field, value)
					}
				}
				return bodies
			})})
	}
	return list
}

func refuses(op operation, name string, change func(object) []object) func(context.Context, *session) verdict {
	return refusesAs(op, []string{name}, change)
}

// refusesAs makes a proper request malformed. For Decrypt the proper one is of a
// real ciphertext, so that only the change can be the reason of a refusal.
func refusesAs(op operation, names []string, change func(object) []object) func(context.Context, *session) verdict {
	return func(ctx context.Context, s *session) verdict {
		body := s.body(op)
		if op == decrypt {
			c, err := s.encrypt(ctx, random(32), theAAD)
			if err != nil {
				return notRun("%v", err)
			}
			body = s.decryptBody(c, theAAD)
		}
		return each(change(body), func(body object) verdict {
			return wantError(s.ask(ctx, op, s.target.KeyID, body), names...)
		})
	}
}
