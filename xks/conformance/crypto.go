package conformance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"net/http"
	"strings"
)

const (
	invalidCiphertext    = "InvalidCiphertextException"
	validationException  = "ValidationException"
	unsupportedOperation = "UnsupportedOperationException"
	accessDenied         = "AccessDeniedException"

	ciphertextSource = "spec: Error codes, InvalidCiphertextException"
	framingSource    = "spec: Encrypt, response 2"
)

// theAAD is that of the specification's example, with which tampering begins.
var theAAD = []byte("project=nile,department=marketing")

// tampered is a ciphertext with its AAD, not as they were made.
type tampered struct {
	sealed
	aad []byte
}

// tamperCase makes ciphertexts that must not decrypt out of one that does.
type tamperCase struct {
	id, rule, source string
	withoutAAD       bool     // the ciphertext is made without AAD
	needsMetadata    bool     // it makes sense only if there is ciphertextMetadata
	accept           []string // errors besides InvalidCiphertextException
	change           func(tampered) []tampered
}

// one makes a change of one variant. It may write to the fields at will.
func one(change func(*tampered)) func(tampered) []tampered {
	return func(t tampered) []tampered {
		t.sealed = t.clone()
		t.aad = bytes.Clone(t.aad)
		change(&t)
		return []tampered{t}
	}
}

// everyByte makes one variant for each byte of a field, which is flipped.
func everyByte(field func(*tampered) *[]byte) func(tampered) []tampered {
	return func(t tampered) []tampered {
		var variants []tampered
		for i := range *field(&t) {
			variants = append(variants, one(func(t *tampered) { (*field(t))[i] ^= 1 << (i % 8) })(t)...)
		}
		return variants
	}
}

var wrongLength = []string{validationException}

var tamperCases = []tamperCase{
	{id: "decrypt/changed-ciphertext", rule: "A changed ciphertext is answered InvalidCiphertextException.", source: ciphertextSource,
		change: everyByte(func(t *tampered) *[]byte { return &t.ciphertext })},
	{id: "decrypt/changed-tag", rule: "A changed authentication tag is answered InvalidCiphertextException, whichever byte it is.", source: ciphertextSource,
		change: everyByte(func(t *tampered) *[]byte { return &t.tag })},
	{id: "decrypt/changed-iv", rule: "A changed initialization vector is answered InvalidCiphertextException.", source: ciphertextSource,
		change: everyByte(func(t *tampered) *[]byte { return &t.iv })},
	{id: "decrypt/changed-aad", rule: "Changed additional authenticated data are answered InvalidCiphertextException.", source: ciphertextSource,
		change: everyByte(func(t *tampered) *[]byte { return &t.aad })},
	{id: "decrypt/missing-aad", rule: "Additional authenticated data left out are answered InvalidCiphertextException.", source: ciphertextSource,
		change: one(func(t *tampered) { t.aad = nil })},
	{id: "decrypt/added-aad", rule: "Additional authenticated data that were not there at encryption are answered InvalidCiphertextException.", source: ciphertextSource, withoutAAD: true,
		change: one(func(t *tampered) { t.aad = theAAD })},
	{id: "decrypt/truncated-ciphertext", rule: "A ciphertext cut off or extended is answered InvalidCiphertextException.", source: ciphertextSource,
		change: func(t tampered) []tampered {
			return append(one(func(t *tampered) { t.ciphertext = t.ciphertext[:len(t.ciphertext)-1] })(t),
				one(func(t *tampered) { t.ciphertext = append(t.ciphertext, 0) })(t)...)
		}},
	{id: "decrypt/changed-metadata", rule: "Changed ciphertextMetadata are detected, whichever byte it is (InvalidCiphertextException, or ValidationException for a format that is not the proxy's).",
		source: "spec: Decrypt, request 3", needsMetadata: true, accept: wrongLength,
		change: everyByte(func(t *tampered) *[]byte { return &t.metadata })},
	{id: "decrypt/missing-metadata", rule: "ciphertextMetadata left out, emptied, cut off or extended are detected (InvalidCiphertextException, or ValidationException for a format that is not the proxy's).",
		source: "spec: Decrypt, request 3", needsMetadata: true, accept: wrongLength,
		change: func(t tampered) []tampered {
			variants := one(func(t *tampered) { t.metadata, t.bare = nil, true })(t)
			variants = append(variants, one(func(t *tampered) { t.metadata = []byte{} })(t)...)
			variants = append(variants, one(func(t *tampered) { t.metadata = t.metadata[:len(t.metadata)-1] })(t)...)
			if len(t.metadata) < maxMetadata {
				variants = append(variants, one(func(t *tampered) { t.metadata = append(t.metadata, 0) })(t)...)
			}
			return variants
		}},
	{id: "decrypt/metadata-as-aad", rule: "ciphertextMetadata given as additional authenticated data instead are detected: both go into the AAD with their lengths.",
		source: framingSource, withoutAAD: true, needsMetadata: true, accept: wrongLength,
		change: one(func(t *tampered) { t.aad, t.metadata, t.bare = t.metadata, nil, true })},
	{id: "decrypt/metadata-boundary", rule: "Bytes moved between additional authenticated data and ciphertextMetadata are detected: both go into the AAD with their lengths.",
		source: framingSource, needsMetadata: true, accept: wrongLength,
		change: func(t tampered) []tampered {
			variants := one(func(t *tampered) {
				t.aad, t.metadata, t.bare = append(t.aad, t.metadata...), nil, true
			})(t)
			variants = append(variants, one(func(t *tampered) { t.aad, t.metadata = append(t.aad, t.metadata[0]), t.metadata[1:] })(t)...)
			variants = append(variants, one(func(t *tampered) { // for those who put the metadata first
				t.aad, t.metadata, t.bare = append(t.metadata, t.aad...), nil, true
			})(t)...)
			if len(t.metadata) < maxMetadata {
				variants = append(variants, one(func(t *tampered) {
					last := len(t.aad) - 1
					t.aad, t.metadata = t.aad[:last], append([]byte{t.aad[last]}, t.metadata...)
				})(t)...)
			}
			return variants
		}},
	{id: "decrypt/tag-15-bytes", rule: "A tag of 15 bytes is refused (InvalidCiphertextException or ValidationException).", source: "spec: Decrypt, request 7", accept: wrongLength,
		change: one(func(t *tampered) { t.tag = t.tag[:15] })},
	{id: "decrypt/tag-12-bytes", rule: "A tag of 12, 8, 4 or 1 bytes is refused (InvalidCiphertextException or ValidationException).", source: "spec: Decrypt, request 7", accept: wrongLength,
		change: func(t tampered) (variants []tampered) {
			for _, n := range []int{12, 8, 4, 1} {
				variants = append(variants, one(func(t *tampered) { t.tag = t.tag[:n] })(t)...)
			}
			return variants
		}},
	{id: "decrypt/tag-empty", rule: "An empty tag is refused (InvalidCiphertextException or ValidationException).", source: "spec: Decrypt, request 7", accept: wrongLength,
		change: one(func(t *tampered) { t.tag = []byte{} })},
	{id: "decrypt/tag-17-bytes", rule: "A tag of 17 bytes is refused (InvalidCiphertextException or ValidationException).", source: "spec: Decrypt, request 7", accept: wrongLength,
		change: one(func(t *tampered) { t.tag = append(t.tag, 0) })},
	{id: "decrypt/tag-boundary", rule: "Bytes moved between ciphertext and tag are refused (InvalidCiphertextException or ValidationException): lengths are checked before anything is joined.",
		source: "spec: Decrypt, request 7", accept: wrongLength,
		change: func(t tampered) []tampered {
			return append(one(func(t *tampered) { t.ciphertext, t.tag = append(t.ciphertext, t.tag[0]), t.tag[1:] })(t),
				one(func(t *tampered) {
					last := len(t.ciphertext) - 1
					t.ciphertext, t.tag = t.ciphertext[:last], append([]byte{t.ciphertext[last]}, t.tag...)
				})(t)...)
		}},
	{id: "decrypt/iv-length", rule: "An initialization vector of 0, 11 or 13 bytes is refused (InvalidCiphertextException or ValidationException).", source: "spec: Decrypt, request 6", accept: wrongLength,
		change: func(t tampered) (variants []tampered) {
			for _, n := range []int{0, 11, 13} {
				variants = append(variants, one(func(t *tampered) { t.iv = append(t.iv, make([]byte, 16)...)[:n] })(t)...)
			}
			return variants
		}},
	{id: "decrypt/iv-boundary", rule: "Bytes moved between initialization vector and ciphertext are refused (InvalidCiphertextException or ValidationException).",
		source: "spec: Decrypt, request 6", accept: wrongLength,
		change: func(t tampered) []tampered {
			return append(one(func(t *tampered) { t.iv, t.ciphertext = append(t.iv, t.ciphertext[0]), t.ciphertext[1:] })(t),
				one(func(t *tampered) {
					last := len(t.iv) - 1
					t.iv, t.ciphertext = t.iv[:last], append([]byte{t.iv[last]}, t.ciphertext...)
				})(t)...)
		}},
	{id: "decrypt/metadata-21-bytes", rule: "ciphertextMetadata of 21 bytes are refused (ValidationException or InvalidCiphertextException).", source: "spec: Decrypt, request 3", accept: wrongLength,
		change: one(func(t *tampered) { t.metadata, t.bare = append(t.metadata, make([]byte, 21)...)[:21], false })},
}

// cryptoChecks are about encryption and decryption.
func cryptoChecks() []check {
	list := []check{
		{id: "decrypt/round-trip", rule: "What Encrypt made, Decrypt turns back into the plaintext, with AAD and without.", source: "spec: Decrypt, response 1",
			run: func(ctx context.Context, s *session) verdict {
				return each([][]byte{nil, theAAD}, func(aad []byte) verdict { return s.roundTrip(ctx, random(32), aad, nil) })
			}},
		{id: "cdiv/with-aad", rule: "The ciphertextDataIntegrityValue is the SHA-256 over AAD, metadata, IV, ciphertext and tag, and the ciphertext decrypts.", source: "spec: Appendix C",
			run: checkCDIV(theAAD)},
		{id: "cdiv/without-aad", rule: "The same without additional authenticated data, for which the empty string stands.", source: "spec: Appendix C",
			run: checkCDIV(nil)},
		{id: "decrypt/other-key", rule: "A ciphertext does not decrypt with another key.", source: ciphertextSource, needs: needDecryptOnlyKey,
			run: func(ctx context.Context, s *session) verdict {
				c, err := s.encrypt(ctx, random(32), nil)
				if err != nil {
					return notRun("%v", err)
				}
				return wantError(s.ask(ctx, decrypt, s.target.DecryptOnlyKeyID, s.decryptBody(c, nil)), invalidCiphertext)
			}},
	}
	for _, t := range tamperCases {
		list = append(list, check{id: t.id, rule: t.rule, source: t.source, run: t.run})
	}
	return list
}

// run encrypts, decrypts once honestly, so that a refusal means something, and
// then tries the variants.
func (t tamperCase) run(ctx context.Context, s *session) verdict {
	aad := theAAD
	if t.withoutAAD {
		aad = nil
	}
	c, err := s.encrypt(ctx, random(32), aad)
	switch {
	case err != nil:
		return notRun("%v", err)
	case t.needsMetadata && len(c.metadata) == 0:
		return notRun("the proxy makes no ciphertextMetadata")
	case len(c.iv) < 12 || len(c.tag) != tagSize || len(c.ciphertext) == 0:
		return notRun("the ciphertext to change is not of the right form")
	}
	if a := s.ask(ctx, decrypt, s.target.KeyID, s.decryptBody(c, aad)); !a.ok() {
		return notRun("needs a successful Decrypt: %v", a)
	}
	return each(t.change(tampered{c, aad}), func(v tampered) verdict {
		return wantError(s.ask(ctx, decrypt, s.target.KeyID, s.decryptBody(v.sealed, v.aad)), append([]string{invalidCiphertext}, t.accept...)...)
	})
}

// roundTrip encrypts and decrypts; change, if given, changes both requests.
func (s *session) roundTrip(ctx context.Context, plaintext, aad []byte, change func(object) object) verdict {
	if change == nil {
		change = func(o object) object { return o }
	}
	a := s.ask(ctx, encrypt, s.target.KeyID, change(s.encryptBody(plaintext, aad)))
	c, err := a.sealed()
	if err != nil {
		return fail("Encrypt: %v", a)
	}
	return s.decryptsTo(s.ask(ctx, decrypt, s.target.KeyID, change(s.decryptBody(c, aad))), plaintext)
}

// decryptsTo judges the answer to a Decrypt request.
func (s *session) decryptsTo(a answer, plaintext []byte) verdict {
	if !a.ok() {
		return fail("Decrypt: %v", a)
	}
	got, err := a.base64Field("plaintext")
	switch {
	case err != nil:
		return fail("Decrypt: %v", err)
	case !bytes.Equal(got, plaintext):
		return fail("Decrypt gives another plaintext, of %d bytes for %d", len(got), len(plaintext))
	}
	return pass("200, the same %d bytes", len(got))
}

// integrityValue: spec, Appendix C.
func integrityValue(c sealed, aad []byte) []byte {
	hash := sha256.Sum256(bytes.Join([][]byte{aad, c.metadata, c.iv, c.ciphertext, c.tag}, nil))
	return hash[:]
}

func checkCDIV(aad []byte) func(context.Context, *session) verdict {
	return func(ctx context.Context, s *session) verdict {
		plaintext := random(32)
		c, err := s.ask(ctx, encrypt, s.target.KeyID, s.encryptBody(plaintext, aad).with("ciphertextDataIntegrityValueAlgorithm", algorithmCDIV)).sealed()
		switch {
		case err != nil:
			return fail("%v", err)
		case c.cdiv == nil:
			return fail("no ciphertextDataIntegrityValue although one was asked for")
		case !bytes.Equal(c.cdiv, integrityValue(c, aad)):
			return fail("a value of %d bytes, which is not the right one", len(c.cdiv))
		}
		return s.decryptsTo(s.ask(ctx, decrypt, s.target.KeyID, s.decryptBody(c, aad)), plaintext)
	}
}

// arn is an ARN of a length.
func arn(start string, length int) string { return start + strings.Repeat("a", length-len(start)) }

const (
	arnPrincipal = "arn:aws:iam::123456789012:role/"
	arnKey       = "arn:aws:kms:us-east-1:123456789012:key/"
)

// limitChecks are about sizes: those that every proxy must support, and those
// that nobody should swallow.
var limitChecks = []check{
	{id: "limits/plaintext", rule: "A plaintext of 4300 bytes is encrypted and decrypted.", source: "spec: Encrypt, request 2",
		run: func(ctx context.Context, s *session) verdict {
			return s.roundTrip(ctx, random(maxPlaintext), nil, nil)
		}},
	{id: "limits/aad", rule: "Additional authenticated data of 8192 bytes are taken.", source: "spec: Encrypt, request 4",
		run: func(ctx context.Context, s *session) verdict {
			return s.roundTrip(ctx, random(32), random(maxAAD), nil)
		}},
	{id: "limits/arn", rule: "ARNs of 2048 characters are taken, though authorization may refuse an invented principal.", source: "spec: API operations",
		run: func(ctx context.Context, s *session) verdict {
			return each([]object{{"kmsKeyArn": arn(arnKey, maxARN)}, {"awsPrincipalArn": arn(arnPrincipal, maxARN)}}, func(fields object) verdict {
				return allowingDenial(fields)(ctx, s)
			})
		}},
	{id: "limits/together", rule: "All of these at their longest are taken together, with a CDIV.", source: "spec: Encrypt, request",
		run: checkTogether},
	{id: "limits/over-plaintext", rule: "A plaintext of 4301 bytes is encrypted, or answered 501 UnsupportedOperationException.", source: "spec: Error codes, UnsupportedOperationException",
		run: func(ctx context.Context, s *session) verdict {
			return overLimit(s.ask(ctx, encrypt, s.target.KeyID, s.encryptBody(random(maxPlaintext+1), nil)))
		}},
	{id: "limits/over-aad", rule: "Additional authenticated data of 8193 bytes are taken, or answered 501 UnsupportedOperationException.", source: "spec: Error codes, UnsupportedOperationException",
		run: func(ctx context.Context, s *session) verdict {
			return overLimit(s.ask(ctx, encrypt, s.target.KeyID, s.encryptBody(random(32), random(maxAAD+1))))
		}},
	{id: "limits/aad-65536", rule: "Additional authenticated data whose length does not fit the two bytes of the framing are refused (UnsupportedOperationException or ValidationException).",
		source: framingSource,
		run: func(ctx context.Context, s *session) verdict {
			return each([]int{1 << 16, 1<<16 + len(theAAD)}, func(size int) verdict {
				return wantError(s.ask(ctx, encrypt, s.target.KeyID, s.encryptBody(random(32), random(size))), unsupportedOperation, validationException)
			})
		}},
	{id: "limits/body-1-MiB", rule: "A body of 1 MiB, which KMS never sends, is refused, and the proxy goes on serving.", source: "good practice: bodies are bounded", run: hugeBody(1 << 20)},
	{id: "limits/body-16-MiB", rule: "A body of 16 MiB is refused, and the proxy goes on serving.", source: "good practice: bodies are bounded", run: hugeBody(16 << 20)},
}

// checkTogether sends the longest request that KMS may make. If authorization
// refuses the invented principal, then with the target's.
func checkTogether(ctx context.Context, s *session) verdict {
	plaintext, aad := random(maxPlaintext), random(maxAAD)
	long := func(principal string) func(object) object {
		return func(o object) object {
			return o.metadata(func(m object) object {
				return m.with("kmsKeyArn", arn(arnKey, maxARN)).with("awsPrincipalArn", principal).
					with("awsSourceVpc", "vpc-0123456789abcdef0").with("awsSourceVpce", "vpce-0123456789abcdef0").with("kmsViaService", "dynamodb.us-east-1.amazonaws.com")
			})
		}
	}
	withCDIV := func(principal string) answer {
		return s.ask(ctx, encrypt, s.target.KeyID, long(principal)(s.encryptBody(plaintext, aad)).with("ciphertextDataIntegrityValueAlgorithm", algorithmCDIV))
	}
	principal := arn(arnPrincipal, maxARN)
	a := withCDIV(principal)
	if a.errorName() == accessDenied {
		principal = s.target.Principal
		a = withCDIV(principal)
	}
	c, err := a.sealed()
	if err != nil {
		return fail("Encrypt: %v", a)
	}
	if !bytes.Equal(c.cdiv, integrityValue(c, aad)) {
		return fail("the ciphertextDataIntegrityValue is not the right one")
	}
	return s.decryptsTo(s.ask(ctx, decrypt, s.target.KeyID, long(principal)(s.decryptBody(c, aad))), plaintext)
}

// overLimit: a proxy may support more than it must.
func overLimit(a answer) verdict {
	if a.ok() {
		return pass("%v", a)
	}
	return wantError(a, unsupportedOperation)
}

// hugeBody sends a plaintext of some size. A proxy need not answer: it may as
// well close the connection.
func hugeBody(size int) func(context.Context, *session) verdict {
	return func(ctx context.Context, s *session) verdict {
		a := s.ask(ctx, encrypt, s.target.KeyID, s.encryptBody(make([]byte, size/4*3), nil))
		if a.status == http.StatusOK {
			return fail("200: it was encrypted")
		}
		if after := s.ask(ctx, getHealthStatus, "", s.request(getHealthStatus)); !after.ok() {
			return fail("%v, and then GetHealthStatus: %v", a, after)
		}
		return pass("%v", a)
	}
}
