package xks

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"

	"holdfast/appliance"
)

// operation is one of the four operations of the API.
type operation struct {
	is appliance.Operation
	// serve gives the body of the answer.
	serve func(a *API, ctx context.Context, req *request, body []byte) ([]byte, error)
}

// keyOperations are those on a key, by the last part of the path.
var keyOperations = map[string]operation{
	"metadata": {appliance.OpGetAttributes, (*API).getKeyMetadata},
	"encrypt":  {appliance.OpEncrypt, (*API).encrypt},
	"decrypt":  {appliance.OpDecrypt, (*API).decrypt},
}

// The one encryption algorithm and the one CDIV algorithm of the
// specification's version 1.
const (
	algorithmAESGCM = "AES_GCM"
	cdivSHA256      = "SHA_256"
)

// setMetadata takes over on whose behalf KMS calls, and checks that the fields that
// the operation requires are there. A request ID is opaque and may be empty; no
// value is interpreted.
func (req *request) setMetadata(m *requestMetadata, needPrincipal, needKeyARN bool) error {
	if m == nil {
		return fail(validationException, "the field requestMetadata is missing")
	}
	if name := m.tooLong(); name != "" {
		// Nothing of it is kept: it would not fit into a record.
		return fail(unsupportedOperationException, fmt.Sprintf("the field requestMetadata.%s has more than %d bytes", name, maxMetadataField))
	}
	if m.KMSRequestID != nil {
		req.outcome.RequestID = *m.KMSRequestID
	}
	r := &req.outcome.Request
	r.Principal, r.KMSOperation, r.ViaService, r.KMSKeyARN = m.AWSPrincipalARN, m.KMSOperation, m.KMSViaService, m.KMSKeyARN
	r.SourceVPC, r.SourceVPCE = m.AWSSourceVPC, m.AWSSourceVPCE
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

// getKeyMetadata: spec, GetKeyMetadata.
func (a *API) getKeyMetadata(ctx context.Context, req *request, body []byte) ([]byte, error) {
	var in metadataRequest
	if err := decodeBody(body, &in); err != nil {
		return nil, err
	}
	if err := req.setMetadata(in.RequestMetadata, true, false); err != nil {
		return nil, err
	}
	k, err := req.session.Attributes(ctx)
	if err != nil {
		return nil, err
	}
	out := metadataResponse{KeySpec: appliance.KeySpec, KeyUsage: []string{}, KeyStatus: "DISABLED"}
	if k.Usage.Encrypt {
		out.KeyUsage = append(out.KeyUsage, "ENCRYPT")
	}
	if k.Usage.Decrypt {
		out.KeyUsage = append(out.KeyUsage, "DECRYPT")
	}
	if k.Standing.Serves {
		out.KeyStatus = "ENABLED"
	}
	return encode(out)
}

// encrypt: spec, Encrypt.
func (a *API) encrypt(ctx context.Context, req *request, body []byte) ([]byte, error) {
	var in encryptRequest
	if err := decodeBody(body, &in); err != nil {
		return nil, err
	}
	defer clear(in.Plaintext.bytes)
	if err := req.setMetadata(in.RequestMetadata, true, true); err != nil {
		return nil, err
	}
	switch {
	case len(in.Plaintext.bytes) == 0:
		return nil, fail(validationException, "the field plaintext is missing or empty")
	case in.Algorithm != algorithmAESGCM:
		return nil, fail(validationException, "the field encryptionAlgorithm is not "+algorithmAESGCM)
	case in.CDIVAlgorithm != nil && *in.CDIVAlgorithm != cdivSHA256:
		return nil, fail(validationException, "the field ciphertextDataIntegrityValueAlgorithm is not "+cdivSHA256)
	}
	var check func(*appliance.Ciphertext)
	if in.CDIVAlgorithm != nil {
		// Before the ciphertext is decrypted again: damage that comes between the two
		// is noticed by that, or by the comparison in KMS (spec, Appendix C).
		check = func(c *appliance.Ciphertext) { req.integrity = IntegrityValue(in.AAD.bytes, c) }
	}
	c, err := req.session.Encrypt(ctx, in.Plaintext.bytes, in.AAD.bytes, check)
	if err != nil {
		return nil, err
	}
	return encryptAnswer(c, req.integrity), nil
}

// decrypt: spec, Decrypt.
func (a *API) decrypt(ctx context.Context, req *request, body []byte) ([]byte, error) {
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
	c := &appliance.Ciphertext{Ciphertext: in.Ciphertext.bytes, Metadata: in.Metadata.bytes, IV: in.IV.bytes, Tag: in.Tag.bytes}
	plaintext, err := req.session.Decrypt(ctx, c, in.AAD.bytes)
	if err != nil {
		return nil, err
	}
	defer clear(plaintext)
	return decryptAnswer(plaintext), nil
}

// getHealthStatus: spec, GetHealthStatus. No grant is asked.
func (a *API) getHealthStatus(ctx context.Context, req *request, body []byte) ([]byte, error) {
	var in healthRequest
	if err := decodeBody(body, &in); err != nil {
		return nil, err
	}
	if err := req.setMetadata(in.RequestMetadata, false, false); err != nil {
		return nil, err
	}
	hsms, err := req.session.Health(ctx)
	if err != nil {
		return nil, err
	}
	out := healthResponse{XKSProxyFleetSize: max(DefaultFleetSize, a.fleetSize()), XKSProxyVendor: "Holdfast", XKSProxyModel: a.model}
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

func encode(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, failed(unfulfilled, err)
	}
	return body, nil
}
