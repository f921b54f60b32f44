package operation

import "strings"

// plainWords are the parts of names that are not words as people write them: two that are run
// together, or an abbreviation.
var plainWords = map[string]string{
	"keystore": "key store", "aad": "AAD", "arn": "ARN", "arns": "ARNs", "aws": "AWS", "cedar": "Cedar", "email": "e-mail", "hsm": "HSM", "hsms": "HSMs",
	"id": "ID", "ids": "IDs", "kms": "KMS", "oidc": "OpenID", "pcr": "PCR", "pem": "PEM", "pin": "PIN", "sha256": "SHA-256", "tls": "TLS", "tpm": "TPM",
	"uri": "URI", "url": "URL", "vpc": "VPC", "vpcs": "VPCs", "vpce": "VPC endpoint", "vpces": "VPC endpoints", "ms": "in ms", "ns": "in ns", "us": "in µs",
}

// Plain is the name of a member or a parameter in words, as pages and messages show it.
func Plain(name string) string {
	parts := strings.Split(name, "_")
	for i, p := range parts {
		if word, known := plainWords[p]; known {
			parts[i] = word
		}
	}
	return strings.Join(parts, " ")
}
