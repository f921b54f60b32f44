package progress

import "time"

// Releases is what a broker has on record about this machine's name.
type Releases struct {
	// LogKey is the key that the records are signed by (PEM), as the broker says.
	LogKey string `json:"log_key" jsonschema:"The public key, in PEM, that the broker's log is signed by, as the broker says. Compare it with the one that you have." example:"-----BEGIN PUBLIC KEY-----"`
	// More says that the broker has older records.
	More bool `json:"more" jsonschema:"Whether the broker has older records: holdfast broker log shows them there." example:"false"`
	// Records are the newest, the newest first.
	Records []ReleaseRecord `json:"records" jsonschema:"The newest records under this machine's name, the newest first."`
}

// ReleaseRecord is a record of a broker's log: a decision about this machine's name, or what a
// person has changed of it.
type ReleaseRecord struct {
	Number   uint64    `json:"number" jsonschema:"The number of the record in the broker's log." example:"17"`
	Time     time.Time `json:"time" jsonschema:"When it was written, by the broker's clock."`
	Result   string    `json:"result" jsonschema:"What happened: released, refused, added, admitted or revoked." example:"released"`
	Code     string    `json:"code,omitempty" jsonschema:"The codes of a refusal; absent otherwise." example:"E_TPM_REFERENCE"`
	Reason   string    `json:"reason,omitempty" jsonschema:"Why it was refused, by which rule a machine was admitted, or what the person wrote; absent without one." example:"releases are stopped"`
	By       string    `json:"by,omitempty" jsonschema:"The person who did it, a user of the broker's operating system; absent for what machines did." example:"ann"`
	Remote   string    `json:"remote,omitempty" jsonschema:"The address that asked; absent for what a person did." example:"10.0.0.17:41522"`
	Instance string    `json:"instance,omitempty" jsonschema:"The EC2 instance that asked; absent if its evidence does not show one." example:"i-0123456789abcdef0"`
	Policy   uint64    `json:"policy_version,omitempty" jsonschema:"The version of the broker's policy; absent where none was asked." example:"3"`
	Evidence string    `json:"evidence_sha256,omitempty" jsonschema:"The SHA-256 of the evidence that was shown, in hexadecimal; absent without." example:"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"`
}
