package conformance

import (
	"context"
	"encoding/hex"
	"net/http"
	"regexp"
	"strings"
)

const (
	invalidURIPath = "InvalidUriPathException"
	keyNotFound    = "KeyNotFoundException"
	uriSource      = "spec: Error codes, InvalidUriPathException"
	methodSource   = "spec: API operations"
)

// keyOperations are the operations on a key.
var keyOperations = []operation{getKeyMetadata, encrypt, decrypt}

func unknownKey() string { return "holdfast-check-" + hex.EncodeToString(random(8)) }

// uriChecks are about paths and methods.
var uriChecks = []check{
	{id: "uri/kms-form", rule: "The URI is one that KMS takes: a path of at most 128 letters, digits, '/', '-' and '_', a key ID of at most 128 letters, digits, '-', '.' and '_', and 256 characters in all.",
		source: "spec: API operations", run: checkURIForm},
	{id: "uri/unknown-prefix", rule: "A URI path prefix that the proxy does not serve is answered 404 InvalidUriPathException.", source: uriSource,
		run: func(ctx context.Context, s *session) verdict {
			return each(operations, func(op operation) verdict {
				c := s.call(op, s.target.KeyID, s.body(op))
				c.path = s.prefix + "/holdfast-check-nowhere" + strings.TrimPrefix(c.path, s.prefix)
				return wantError(s.send(ctx, c), invalidURIPath).at(op.name)
			})
		}},
	{id: "uri/unknown-path", rule: "A path that is none of the API's is answered 404 InvalidUriPathException.", source: uriSource,
		run: func(ctx context.Context, s *session) verdict {
			paths := []string{xksPath + "/nowhere", xksPath, "/kms/xks/v2/health", xksPath + "/keys", xksPath + "/keys/" + s.target.KeyID}
			return each(paths, s.refusedPath(ctx, invalidURIPath))
		}},
	{id: "uri/unknown-operation", rule: "An operation that the API does not have is answered 404 InvalidUriPathException.", source: uriSource,
		run: func(ctx context.Context, s *session) verdict {
			key := xksPath + "/keys/" + s.target.KeyID
			return each([]string{key + "/sign", key + "/ENCRYPT", key + "/encrypt/encrypt"}, s.refusedPath(ctx, invalidURIPath))
		}},
	{id: "uri/malformed-key", rule: "A key ID that is empty, too long or has other characters is refused, and with no redirect.", source: "spec: API operations, externalKeyId",
		run: func(ctx context.Context, s *session) verdict {
			keys := []string{"", strings.Repeat("k", 129), "a b", "ключ", "a/../" + s.target.KeyID}
			paths := make([]string, len(keys))
			for i, key := range keys {
				paths[i] = xksPath + "/keys/" + key + "/metadata"
			}
			return each(paths, s.refusedPath(ctx, invalidURIPath, keyNotFound, validationException, authenticationFailed))
		}},
	{id: "uri/unknown-key", rule: "A key that does not exist is answered 404 KeyNotFoundException, and is not created by asking.", source: "spec: Error codes, KeyNotFoundException",
		run: func(ctx context.Context, s *session) verdict {
			id := unknownKey()
			return each(append(keyOperations, getKeyMetadata), func(op operation) verdict {
				return wantError(s.ask(ctx, op, id, s.body(op)), keyNotFound).at(op.name)
			})
		}},
	{id: "method/get", rule: "A GET request at the URI of an operation is answered 405 Method Not Allowed.", source: methodSource,
		run: func(ctx context.Context, s *session) verdict {
			return each(operations, func(op operation) verdict {
				if a := s.method(ctx, http.MethodGet, op); a.status != http.StatusMethodNotAllowed {
					return fail("%v instead of 405", a).at(op.name)
				}
				return pass("405")
			})
		}},
	{id: "method/get-json", rule: "The answer to a GET request is JSON with an errorName, as all answers are.", source: "spec: API content type",
		run: func(ctx context.Context, s *session) verdict {
			return each(operations, func(op operation) verdict {
				if a := s.method(ctx, http.MethodGet, op); a.fields == nil || !nameForm.MatchString(a.errorName()) {
					return fail("%v", a).at(op.name)
				}
				return pass("JSON with an errorName")
			})
		}},
	{id: "method/others", rule: "Only POST requests perform operations; the answer to others is best 405 Method Not Allowed.", source: methodSource,
		run: func(ctx context.Context, s *session) verdict {
			return each([]string{http.MethodPut, http.MethodHead, http.MethodDelete, http.MethodPatch}, func(method string) verdict {
				return each(operations, func(op operation) verdict {
					switch a := s.method(ctx, method, op); {
					case a.status == http.StatusMethodNotAllowed:
						return pass("405")
					case a.status >= 400 && a.status < 500:
						return warn("%s: %v instead of 405", method, a).at(op.name)
					default:
						return fail("%s: %v instead of 405", method, a).at(op.name)
					}
				})
			})
		}},
}

var (
	pathForm  = regexp.MustCompile(`^[A-Za-z0-9/_-]{1,128}$`)
	keyIDForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)
)

const maxURI = 256

func checkURIForm(_ context.Context, s *session) verdict {
	longest := s.endpoint.String() + s.path(getKeyMetadata, s.target.KeyID)
	switch {
	case !pathForm.MatchString(s.prefix + xksPath):
		return warn("KMS would not take the path")
	case !keyIDForm.MatchString(s.target.KeyID):
		return warn("KMS would not take the key ID")
	case len(longest) > maxURI:
		return warn("%d characters are too many for KMS", len(longest))
	}
	return pass("%d characters", len(longest))
}

// refusedPath tries a path after the prefix; one of the errors must follow.
func (s *session) refusedPath(ctx context.Context, names ...string) func(string) verdict {
	return func(path string) verdict {
		c := s.call(getKeyMetadata, s.target.KeyID, s.request(getKeyMetadata))
		c.path = s.prefix + path
		if len(path) > 80 {
			path = path[:80] + "..."
		}
		return wantError(s.send(ctx, c), names...).at(path)
	}
}

// method asks with another method, in all else properly.
func (s *session) method(ctx context.Context, method string, op operation) answer {
	c := s.call(op, s.target.KeyID, s.body(op))
	c.method = method
	if method == http.MethodGet || method == http.MethodHead {
		c.body = nil
	}
	return s.send(ctx, c)
}
