package conformance

import (
	"context"
	"net/http"
)

const (
	invalidKeyUsage = "InvalidKeyUsageException"
	invalidState    = "InvalidStateException"
	usageSource     = "spec: Error codes, InvalidKeyUsageException"
	stateSource     = "spec: Error codes, InvalidStateException"
	grantSource     = "spec: Authorization"
)

var (
	needEncryptOnlyKey  = need{"a key for ENCRYPT alone", func(t *Target) string { return t.EncryptOnlyKeyID }}
	needDecryptOnlyKey  = need{"a key for DECRYPT alone", func(t *Target) string { return t.DecryptOnlyKeyID }}
	needNoUsageKey      = need{"a key for neither ENCRYPT nor DECRYPT", func(t *Target) string { return t.NoUsageKeyID }}
	needDisabledKey     = need{"a disabled key", func(t *Target) string { return t.DisabledKeyID }}
	needDeniedPrincipal = need{"a principal that authorization refuses", func(t *Target) string { return t.DeniedPrincipal }}
)

// keyChecks are about keys, and callers, that may not do everything.
var keyChecks = []check{
	{id: "usage/encrypt-only", rule: "A key for ENCRYPT alone encrypts, and answers Decrypt with InvalidKeyUsageException.", source: usageSource, needs: needEncryptOnlyKey,
		run: func(ctx context.Context, s *session) verdict {
			c, err := s.ask(ctx, encrypt, s.target.EncryptOnlyKeyID, s.encryptBody(random(32), theAAD)).sealed()
			if err != nil {
				return fail("%v", err)
			}
			return wantError(s.ask(ctx, decrypt, s.target.EncryptOnlyKeyID, s.decryptBody(c, theAAD)), invalidKeyUsage)
		}},
	{id: "usage/encrypt-only-cdiv", rule: "A key for ENCRYPT alone cannot promise a CDIV, which takes a decryption: InvalidKeyUsageException.", source: "spec: Appendix C, step 3", needs: needEncryptOnlyKey,
		run: func(ctx context.Context, s *session) verdict {
			body := s.encryptBody(random(32), theAAD).with("ciphertextDataIntegrityValueAlgorithm", algorithmCDIV)
			return wantError(s.ask(ctx, encrypt, s.target.EncryptOnlyKeyID, body), invalidKeyUsage)
		}},
	{id: "usage/encrypt-only-metadata", rule: "The metadata of a key for ENCRYPT alone list that usage and not DECRYPT.", source: metadataSource + " 2", needs: needEncryptOnlyKey,
		run: func(ctx context.Context, s *session) verdict {
			return s.usages(ctx, s.target.EncryptOnlyKeyID, true, false)
		}},
	{id: "usage/decrypt-only", rule: "A key for DECRYPT alone answers Encrypt with InvalidKeyUsageException, with a CDIV or without.", source: usageSource, needs: needDecryptOnlyKey,
		run: func(ctx context.Context, s *session) verdict {
			body := s.encryptBody(random(32), theAAD)
			return each([]object{body, body.with("ciphertextDataIntegrityValueAlgorithm", algorithmCDIV)}, func(body object) verdict {
				return wantError(s.ask(ctx, encrypt, s.target.DecryptOnlyKeyID, body), invalidKeyUsage)
			})
		}},
	{id: "usage/decrypt-only-metadata", rule: "The metadata of a key for DECRYPT alone list that usage and not ENCRYPT.", source: metadataSource + " 2", needs: needDecryptOnlyKey,
		run: func(ctx context.Context, s *session) verdict {
			return s.usages(ctx, s.target.DecryptOnlyKeyID, false, true)
		}},
	{id: "usage/none", rule: "A key for neither answers Encrypt and Decrypt with InvalidKeyUsageException.", source: usageSource, needs: needNoUsageKey,
		run: func(ctx context.Context, s *session) verdict {
			return each([]operation{encrypt, decrypt}, func(op operation) verdict {
				return wantError(s.ask(ctx, op, s.target.NoUsageKeyID, s.body(op)), invalidKeyUsage).at(op.name)
			})
		}},
	{id: "usage/none-metadata", rule: "The metadata of a key for neither list neither ENCRYPT nor DECRYPT.", source: metadataSource + " 2", needs: needNoUsageKey,
		run: func(ctx context.Context, s *session) verdict {
			return s.usages(ctx, s.target.NoUsageKeyID, false, false)
		}},
	{id: "state/disabled", rule: "A disabled key answers Encrypt and Decrypt with InvalidStateException.", source: stateSource, needs: needDisabledKey,
		run: func(ctx context.Context, s *session) verdict {
			return each([]operation{encrypt, decrypt}, func(op operation) verdict {
				return wantError(s.ask(ctx, op, s.target.DisabledKeyID, s.body(op)), invalidState).at(op.name)
			})
		}},
	{id: "state/disabled-metadata", rule: "The metadata of a disabled key are given, with the keyStatus DISABLED.", source: metadataSource + " 3", needs: needDisabledKey,
		run: func(ctx context.Context, s *session) verdict {
			a := s.ask(ctx, getKeyMetadata, s.target.DisabledKeyID, s.request(getKeyMetadata))
			if a.ok() && a.fields["keyStatus"] != "DISABLED" {
				return fail("200 and another keyStatus")
			}
			return wantOK(a)
		}},
	{id: "grants/denied", rule: "A principal without permission is answered 403 AccessDeniedException on the three operations on keys.", source: "spec: Error codes, AccessDeniedException", needs: needDeniedPrincipal,
		run: func(ctx context.Context, s *session) verdict {
			return each(keyOperations, func(op operation) verdict {
				return wantError(s.ask(ctx, op, s.target.KeyID, s.body(op).metadata(s.denied)), accessDenied).at(op.name)
			})
		}},
	{id: "grants/health-exempt", rule: "GetHealthStatus is exempt from authorization: it names no principal, and one it names does not matter.", source: "spec: GetHealthStatus", needs: needDeniedPrincipal,
		run: func(ctx context.Context, s *session) verdict {
			body := s.request(getHealthStatus)
			return each([]object{body, body.metadata(s.denied)}, func(body object) verdict {
				a := s.ask(ctx, getHealthStatus, "", body)
				if a.status == http.StatusForbidden {
					return fail("%v", a)
				}
				return wantOK(a)
			})
		}},
	{id: "grants/allowed", rule: "A principal with permission may use the operations.", source: grantSource,
		run: func(ctx context.Context, s *session) verdict {
			return each([]operation{getKeyMetadata, encrypt}, func(op operation) verdict {
				return wantOK(s.ask(ctx, op, s.target.KeyID, s.body(op))).at(op.name)
			})
		}},
}

// denied names the principal that authorization refuses.
func (s *session) denied(m object) object {
	return m.with("awsPrincipalArn", s.target.DeniedPrincipal)
}
