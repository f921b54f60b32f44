package web

import "holdfast/web/operation"

// Prefix is where the admin API is, before the path of each operation.
const Prefix = operation.Prefix

// The types of operations, for programs that call the API by its paths.
type (
	Options       = operation.Options
	Route         = operation.Route
	Domain        = operation.Domain
	Boot          = operation.Boot
	Audit         = operation.Audit
	Journal       = operation.Journal
	Site          = operation.Site
	ApprovalStore = operation.ApprovalStore
	Pending       = operation.Pending

	Status             = operation.Status
	Block              = operation.NewBlock
	Blocked            = operation.Blocked
	NewKeyStore        = operation.NewKeyStore
	Quota              = operation.Quota
	KeyStoreHealth     = operation.KeyStoreHealth
	NewKey             = operation.NewKey
	Rotation           = operation.Rotation
	Deletion           = operation.Deletion
	NewGrant           = operation.NewGrant
	Grant              = operation.Grant
	Policy             = operation.Policy
	NewCredential      = operation.NewCredential
	CreatedCredential  = operation.CreatedCredential
	SealRequest        = operation.SealRequest
	Revocation         = operation.Revocation
	Report             = operation.Report
	Records            = operation.Records
	Checkpoint         = operation.Checkpoint
	Verification       = operation.Verification
	NewInvitation      = operation.NewInvitation
	CreatedInvitation  = operation.CreatedInvitation
	RoleChange         = operation.RoleChange
	OIDCBinding        = operation.OIDCBinding
	NewToken           = operation.NewToken
	CreatedToken       = operation.CreatedToken
	Ended              = operation.Ended
	Account            = operation.Account
	CeremonyAnswer     = operation.CeremonyAnswer
	Proof              = operation.Proof
	RecoveryCodes      = operation.RecoveryCodes
	Approval           = operation.ApprovalDetail
	Settings           = operation.Settings
	SettingsDetail     = operation.SettingsDetail
	Certificate        = operation.Certificate
	CertificateRequest = operation.CertificateRequest
	SigningRequest     = operation.SigningRequest
	CertificateChain   = operation.CertificateChain
)

// Routes gives the table of all operations.
func Routes() []*Route { return operation.Table() }

// Revision names the state of what an operation changes, for If-Match.
func Revision(v any) string { return operation.Revision(v) }
