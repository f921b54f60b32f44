package xks

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"

	"holdfast/appliance"
)

// operation is one of the four operations of the API.
type operation struct {
	// name is the specification's.
	name string
	// serve gives the body of the answer.
	serve func(a *API, ctx context.Context, req *request, body []byte) ([]byte, *apiError)
}

var (
	opGetHealthStatus = operation{"GetHealthStatus", (*API).getHealthStatus}

	// keyOperations are those on a key, by the last part of the path.
	keyOperations = map[string]operation{
		"metadata": {"GetKeyMetadata", (*API).getKeyMetadata},
		"encrypt":  {"Encrypt", (*API).encrypt},
		"decrypt":  {"Decrypt", (*API).decrypt},
	}
)

// The one encryption algorithm and the one CDIV algorithm of the
// specification's version 1.
const (
	algorithmAESGCM = "AES_GCM"
	cdivSHA256      = "SHA_256"
)

// setMetadata checks that the fields that the operation requires are there. A
// request ID is opaque and may be empty; no value is interpreted.
func (req *request) setMetadata(m *requestMetadata, needPrincipal, needKeyARN bool) *apiError {
	if m == nil {
		return fail(validationException, "the field requestMetadata is missing")
	}
	req.metadata = m
	missing := ""
	switch {
	case m.KMSRequestID == nil:
		missing = "kmsRequestId"
	case m.KMSOperation == "":
		missing = "kmsOperation"
	case needPrincipal && m.AWSPrincipalARN == "":
		missing = "awsPrincipalArn"
	case needKeyARN && m.KMSKeyARN == "":
		missing = "kmsKeyArn"
	default:
		return nil
	}
	return fail(validationException, "the field requestMetadata."+missing+" is missing")
}

// key gets the request's key for an operation that the grants must allow.
func (req *request) key(ctx context.Context, op appliance.Operation) (*appliance.Key, *apiError) {
	key, err := req.endpoint.Key(ctx, req.keyID)
	if err != nil {
		return nil, fromDomain(err)
	}
	m := req.metadata
	req.decision, err = key.Allow(appliance.RequestContext{Principal: m.AWSPrincipalARN, Operation: op,
		KMSOperation: m.KMSOperation, ViaService: m.KMSViaService, SourceVPC: m.AWSSourceVPC,
		SourceVPCE: m.AWSSourceVPCE, KMSKeyARN: m.KMSKeyARN})
	if err != nil {
		return nil, fromDomain(err)
	}
	return key, nil
}

// getKeyMetadata: spec, GetKeyMetadata.
func (a *API) getKeyMetadata(ctx context.Context, req *request, body []byte) ([]byte, *apiError) {
	var in metadataRequest
	if err := decodeBody(body, &in); err != nil {
		return nil, err
	}
	if err := req.setMetadata(in.RequestMetadata, true, false); err != nil {
		return nil, err
	}
	key, err := req.key(ctx, appliance.OpGetAttributes)
	if err != nil {
		return nil, err
	}
	k := key.ExternalKey()
	out := metadataResponse{KeySpec: appliance.KeySpec, KeyUsage: []string{}, KeyStatus: "DISABLED"}
	if k.Usage.Encrypt {
		out.KeyUsage = append(out.KeyUsage, "ENCRYPT")
	}
	if k.Usage.Decrypt {
		out.KeyUsage = append(out.KeyUsage, "DECRYPT")
	}
	if k.State == appliance.KeyEnabled && k.Blocked.IsZero() {
		out.KeyStatus = "ENABLED"
	}
	return encode(out)
}

// encrypt: spec, Encrypt.
func (a *API) encrypt(ctx context.Context, req *request, body []byte) ([]byte, *apiError) {
	var in encryptRequest
	if err := decodeBody(body, &in); err != nil {
		return nil, err
	}
	defer clear(in.Plaintext.bytes)
	if err := req.setMetadata(in.RequestMetadata, true, true); err != nil {
		return nil, err
	}
	cdiv := in.CDIVAlgorithm != nil
	switch {
	case len(in.Plaintext.bytes) == 0:
		return nil, fail(validationException, "the field plaintext is missing or empty")
	case in.Algorithm != algorithmAESGCM:
		return nil, fail(validationException, "the field encryptionAlgorithm is not "+algorithmAESGCM)
	case cdiv && *in.CDIVAlgorithm != cdivSHA256:
		return nil, fail(validationException, "the field ciphertextDataIntegrityValueAlgorithm is not "+cdivSHA256)
	}
	key, apiErr := req.key(ctx, appliance.OpEncrypt)
	if apiErr != nil {
		return nil, apiErr
	}
	needed := []appliance.Operation{appliance.OpEncrypt}
	if cdiv {
		// The value promises that decryption succeeds, so the key must be able to.
		needed = append(needed, appliance.OpDecrypt)
	}
	if err := key.Usable(needed...); err != nil {
		return nil, fromDomain(err)
	}
	if err := checkSizes("plaintext", in.Plaintext.bytes, in.AAD.bytes); err != nil {
		return nil, err
	}
	c, err := key.Encrypt(ctx, in.Plaintext.bytes, in.AAD.bytes)
	if err != nil {
		return nil, fromDomain(err)
	}
	req.version = c.KeyVersion()
	out := encryptResponse{AuthenticationTag: c.Tag, Ciphertext: c.Ciphertext,
		CiphertextMetadata: c.Metadata, InitializationVector: c.IV}
	if cdiv {
		// In this order: damage that comes between the two is noticed by either
		// the decryption here or the comparison in KMS (spec, Appendix C).
		out.CDIV = IntegrityValue(in.AAD.bytes, c)
		again, err := key.Decrypt(ctx, c, in.AAD.bytes)
		if err != nil {
			return nil, failed(unfulfilled, fmt.Errorf("a ciphertext just made does not decrypt: %w", err))
		}
		defer clear(again)
		if subtle.ConstantTimeCompare(again, in.Plaintext.bytes) != 1 {
			return nil, failed(unfulfilled, errors.New("a ciphertext just made decrypts to another plaintext: suspect the memory or the HSM"))
		}
	}
	return encode(out)
}

// decrypt: spec, Decrypt.
func (a *API) decrypt(ctx context.Context, req *request, body []byte) ([]byte, *apiError) {
	var in decryptRequest
	if err := decodeBody(body, &in); err != nil {
		return nil, err
	}
	if err := req.setMetadata(in.RequestMetadata, true, true); err != nil {
		return nil, err
	}
	switch {
	case !in.Ciphertext.present:
		return nil, fail(validationException, "the field ciphertext is missing")
	case !in.IV.present:
		return nil, fail(validationException, "the field initializationVector is missing")
	case !in.Tag.present:
		return nil, fail(validationException, "the field authenticationTag is missing")
	case in.Algorithm != algorithmAESGCM:
		return nil, fail(validationException, "the field encryptionAlgorithm is not "+algorithmAESGCM)
	case len(in.Metadata.bytes) > appliance.MaxMetadata:
		return nil, fail(validationException, fmt.Sprintf("the field ciphertextMetadata has more than %d bytes", appliance.MaxMetadata))
	}
	key, apiErr := req.key(ctx, appliance.OpDecrypt)
	if apiErr != nil {
		return nil, apiErr
	}
	if err := key.Usable(appliance.OpDecrypt); err != nil {
		return nil, fromDomain(err)
	}
	if err := checkSizes("ciphertext", in.Ciphertext.bytes, in.AAD.bytes); err != nil {
		return nil, err
	}
	c := &appliance.Ciphertext{Ciphertext: in.Ciphertext.bytes, Metadata: in.Metadata.bytes, IV: in.IV.bytes, Tag: in.Tag.bytes}
	req.version = c.KeyVersion()
	plaintext, err := key.Decrypt(ctx, c, in.AAD.bytes)
	if err != nil {
		return nil, fromDomain(err)
	}
	defer clear(plaintext)
	return encode(decryptResponse{plaintext})
}

// getHealthStatus: spec, GetHealthStatus. No grant is asked.
func (a *API) getHealthStatus(ctx context.Context, req *request, body []byte) ([]byte, *apiError) {
	var in healthRequest
	if err := decodeBody(body, &in); err != nil {
		return nil, err
	}
	if err := req.setMetadata(in.RequestMetadata, false, false); err != nil {
		return nil, err
	}
	hsms, err := a.stores.Health(ctx)
	if err != nil {
		return nil, fromDomain(err)
	}
	out := healthResponse{XKSProxyFleetSize: a.fleetSize, XKSProxyVendor: "Holdfast", XKSProxyModel: a.model}
	var vendors []string
	for _, h := range hsms[:min(len(hsms), maxFleetDetails)] {
		if h.Manufacturer != "" && !slices.Contains(vendors, h.Manufacturer) {
			vendors = append(vendors, h.Manufacturer)
		}
		out.EKMFleetDetails = append(out.EKMFleetDetails, ekmFleetResponse{
			ID:           orUnknown(h.Serial),
			Model:        orUnknown(joinWords(h.Model, h.Hardware, h.Firmware)),
			HealthStatus: string(h.Status),
		})
	}
	out.EKMVendor = orUnknown(joinWords(vendors...))
	return encode(out)
}

// maxFleetDetails: spec, GetHealthStatus, response payload.
const maxFleetDetails = 10

func joinWords(words ...string) string {
	out := ""
	for _, w := range words {
		if w != "" {
			if out != "" {
				out += " "
			}
			out += w
		}
	}
	return printable(out)
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return printable(s)
}

// IntegrityValue gives the ciphertextDataIntegrityValue: SHA-256 over AAD,
// metadata, IV, ciphertext and tag, one after the other (spec, Appendix C).
func IntegrityValue(aad []byte, c *appliance.Ciphertext) []byte {
	h := sha256.New()
	for _, part := range [][]byte{aad, c.Metadata, c.IV, c.Ciphertext, c.Tag} {
		h.Write(part)
	}
	return h.Sum(nil)
}

// checkSizes refuses what exceeds the limits of this implementation, which are
// what the specification asks every proxy to support.
func checkSizes(what string, data, aad []byte) *apiError {
	if len(data) > maxPlaintext {
		return fail(unsupportedOperationException, fmt.Sprintf("the field %s has more than %d bytes", what, maxPlaintext))
	}
	if len(aad) > maxAAD {
		return fail(unsupportedOperationException, fmt.Sprintf("the field additionalAuthenticatedData has more than %d bytes", maxAAD))
	}
	return nil
}

func encode(v any) ([]byte, *apiError) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, failed(unfulfilled, err)
	}
	return body, nil
}
