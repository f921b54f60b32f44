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
		ListGrants, CreateGrant, CheckGrantFile, CreateGrants, ShowGrant, RenderGrant, RemoveGrant, TestGrants, ShowPolicy, SetPolicy,
		ListCredentials, CreateCredential, ShowCredential, ActivateCredential, DeactivateCredential, DeleteCredential,
		DiscardKeyStore, DiscardKey, DiscardCredential, DiscardGrant, DiscardSetting,
		VerifyState, AcceptState, ConfirmTime, ShowAdmission, ConfirmAdmission,
		ShowEvidence, ShowReport, ShowReleases, Seal, ShowAppraisalPolicy, InstallPolicy, ShowLaunch, InstallLaunch, RevokePolicies,
		SearchAudit, ShowAuditRecord, ShowAuditProof, ExportAudit, SignCheckpoint, ShowAuditVerification, VerifyAudit,
		Backup, Restore, ShowInstallation, BeginInstallation, TakeOverInstallation,
		ListUsers, ShowUser, SetRole, DisableUser, EnableUser, UnlockUser, BindOIDC, SetEmail, DeleteUser, SignOutUser,
		ListInvitations, CreateInvitation, ShowInvitation, RevokeInvitation,
		ListSessions, ShowSession, RevokeSession,
		ListTokens, CreateToken, ShowToken, RevokeToken,
		ShowAccount, ListOwnSessions, SignOutEverywhere, ShowOwnSession, RevokeOwnSession, ProvePassword, BeginProvePasskey, ProvePasskey,
		BeginPasskey, AddPasskey, ShowPasskey, RemovePasskey, BeginPassword, SetPassword, NewRecoveryCodes, ConfirmRecoveryUses,
		ShowFleet, ListNodes, ShowNode, DrainNode, RemoveNode,
		ListApprovals, ShowApproval, Approve, PerformApproved, Reject,
		ShowSettings, SetSettings, TestNotices, ShowCertificate, RequestCertificate, InstallCertificate, RestoreCertificate, ShareCertificate, UnshareCertificate,
	} {
		table = append(table, o.Entry())
	}
}

// Table gives all operations.
func Table() []*Route { return slices.Clone(table) }
