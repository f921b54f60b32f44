package operation

import "slices"

// table is all operations, those of a thing together: in the order in which the
// console lists them.
var table []*Route

func init() { // some operations perform others of the table
	for _, o := range []Entry{
		ShowStatus, ListActivity, ListBootSteps, ProbeHSMs, Block, Unblock, ShowDependents, ShowOpenAPI,
		ListKeyStores, CreateKeyStore, ShowKeyStore, SetQuota, ShowKeyStoreHealth, DeleteKeyStore,
		ListKeys, CreateKey, CheckKeyFile, CreateKeys, ShowKey, EnableKey, DisableKey, RotateKey, ScheduleKeyDeletion, CancelKeyDeletion,
		ListGrants, CreateGrant, CheckGrantFile, CreateGrants, RenderGrant, RemoveGrant, TestGrants, ShowPolicy, SetPolicy,
		ListCredentials, CreateCredential, ActivateCredential, DeactivateCredential, DeleteCredential,
		DiscardKeyStore, DiscardKey, DiscardCredential, DiscardGrant, DiscardSetting,
		VerifyState, AcceptState, ConfirmTime, ShowAdmission, ConfirmAdmission,
		ShowEvidence, ShowReport, Seal, RevokePolicies,
		SearchAudit, ShowAuditRecord, ShowAuditProof, ExportAudit, SignCheckpoint, ShowAuditVerification, VerifyAudit,
		Backup, Restore, ShowInstallation, BeginInstallation, TakeOverInstallation,
		ListUsers, ShowUser, SetRole, DisableUser, EnableUser, UnlockUser, BindOIDC, SetEmail, DeleteUser, SignOutUser,
		ListInvitations, CreateInvitation, RevokeInvitation,
		ListSessions, RevokeSession,
		ListTokens, CreateToken, RevokeToken,
		ShowAccount, ListOwnSessions, SignOutEverywhere, RevokeOwnSession, ProvePassword, BeginProvePasskey, ProvePasskey,
		BeginPasskey, AddPasskey, RemovePasskey, BeginPassword, SetPassword, NewRecoveryCodes,
		ShowFleet, DrainNode, RemoveNode,
		ListApprovals, ShowApproval, Approve, PerformApproved, Reject,
		ShowSettings, SetSettings, TestNotices, ShowCertificate, RequestCertificate, InstallCertificate, ShareCertificate, UnshareCertificate,
	} {
		table = append(table, o.Entry())
	}
}

// Table gives all operations.
func Table() []*Route { return slices.Clone(table) }
