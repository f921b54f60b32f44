package fault

import "net/http"

// The codes of what is found wrong with an audit log, and of what else may go
// wrong with it.
const (
	AuditLog                Code = "E_AUDIT"
	AuditEdited             Code = "E_AUDIT_EDITED"
	AuditDropped            Code = "E_AUDIT_DROPPED"
	AuditOrder              Code = "E_AUDIT_ORDER"
	AuditTruncated          Code = "E_AUDIT_TRUNCATED"
	AuditMalformed          Code = "E_AUDIT_MALFORMED"
	AuditSegment            Code = "E_AUDIT_SEGMENT"
	AuditSegmentMissing     Code = "E_AUDIT_SEGMENT_MISSING"
	AuditCheckpointForged   Code = "E_AUDIT_CHECKPOINT_FORGED"
	AuditCheckpointRemoved  Code = "E_AUDIT_CHECKPOINT_REMOVED"
	AuditCheckpointMismatch Code = "E_AUDIT_CHECKPOINT_MISMATCH"
	AuditLogID              Code = "E_AUDIT_LOG_ID"
	AuditRolledBack         Code = "E_AUDIT_ROLLED_BACK"
	AuditRewritten          Code = "E_AUDIT_REWRITTEN"
	AuditInconsistent       Code = "E_AUDIT_INCONSISTENT"
	AuditPeer               Code = "E_AUDIT_PEER"
	AuditState              Code = "E_AUDIT_STATE"
	AuditUnsigned           Code = "E_AUDIT_UNSIGNED"
	AuditTree               Code = "E_AUDIT_TREE"
	AuditProof              Code = "E_AUDIT_PROOF"
	AuditNoSpace            Code = "E_AUDIT_NO_SPACE"
	AuditIO                 Code = "E_AUDIT_IO"
	AuditBusy               Code = "E_AUDIT_BUSY"
	AuditClosed             Code = "E_AUDIT_CLOSED"
	AuditTimeout            Code = "E_AUDIT_TIMEOUT"
	AuditSigner             Code = "E_AUDIT_SIGNER"
)

// What to do with a log that was changed.
const changedLog = "Keep the log as it is, for inquiry, and compare it with a checkpoint that was kept elsewhere. To serve again, restore a backup to a new state volume."

var auditCodes = []Entry{
	{Code: AuditLog, Class: WrongState, Do: changedLog,
		Title: "The audit log cannot be opened: it was changed, or is damaged."},
	{Code: AuditEdited, Class: Refused, Do: changedLog,
		Title: "A record is not the one that was logged."},
	{Code: AuditDropped, Class: Refused, Do: changedLog,
		Title: "Records are missing between two others."},
	{Code: AuditOrder, Class: Refused, Do: changedLog,
		Title: "A record stands twice, or in another's place."},
	{Code: AuditTruncated, Class: Refused, Do: changedLog,
		Title: "The log ends before a checkpoint."},
	{Code: AuditMalformed, Class: Refused, Do: changedLog,
		Title: "A line is not a record."},
	{Code: AuditSegment, Class: Refused, Do: changedLog,
		Title: "A segment is not the one that its name says."},
	{Code: AuditSegmentMissing, Class: Refused, Do: changedLog,
		Title: "A segment is gone, and no retention removed it."},
	{Code: AuditCheckpointForged, Class: Refused,
		Title: "A checkpoint's signature is wrong, or of an unknown key.",
		Do:    "Check that --key or --evidence is of the machine that wrote the log. If it is, keep the log as it is, for inquiry."},
	{Code: AuditCheckpointRemoved, Class: Refused, Do: changedLog,
		Title: "Checkpoints are missing."},
	{Code: AuditCheckpointMismatch, Class: Refused, Do: changedLog,
		Title: "A signed checkpoint is of other records."},
	{Code: AuditLogID, Class: Refused,
		Title: "A checkpoint is of another log.",
		Do:    "Give a checkpoint of this log."},
	{Code: AuditRolledBack, Class: Refused, Do: changedLog,
		Title: "A checkpoint that was kept elsewhere is newer than the log."},
	{Code: AuditRewritten, Class: WrongState,
		Do:    "Keep the log as it is, for inquiry. Put the folder audit of state.dir back as it was when the appliance stopped, and restart the machine; or restore a backup to a new state volume.",
		Title: "The audit log does not contain the head that the state keeps: it was rewritten, shortened or put back."},
	{Code: AuditInconsistent, Class: Refused,
		Title: "The audit log of a node is shorter than, or other than, what another node has countersigned.",
		Do:    "Keep the logs of all nodes as they are, for inquiry, and verify copies of them together with `holdfast audit verify DIR --key FILE`. If a copy was made before the countersignature, copy that log again, or give --until."},
	{Code: AuditPeer, Class: Refused,
		Title: "What a node says of its audit log cannot be right: it is too much, in the wrong order, or not what was asked for.",
		Do:    "Verify a copy of that node's log with `holdfast audit verify DIR --key FILE`, and see that all nodes run the same release."},
	{Code: AuditState, Class: Refused,
		Title: "A signed checkpoint names an earlier state of the appliance than one before it: an earlier database was used.",
		Do:    "Keep the log as it is, for inquiry, and find out who put an earlier database back at that time. To serve again, restore a backup to a new state volume."},
	{Code: AuditUnsigned, Class: WrongState, Status: http.StatusServiceUnavailable, XKS: internalName,
		Title: "For too long the TPM has not signed the audit log. Nothing is done until it does, but what takes out of service.",
		Do:    "Read the cause in the log: mostly the TPM failed. Restart the machine."},
	{Code: AuditTree, Class: Refused,
		Title: "The file of tree hashes is damaged; the records are not.",
		Do:    "Restart the machine: the appliance makes the file again when it opens the log."},
	{Code: AuditProof, Class: Refused,
		Title: "A proof of inclusion does not hold.",
		Do:    "Make the proof again with `holdfast audit proof SEQ`. If it does not hold either, verify the log."},
	{Code: AuditNoSpace, Class: WrongState, Status: http.StatusServiceUnavailable, XKS: internalName,
		Title: "The audit log's disk is full, or only the reserve is left. What cannot be recorded is not done.",
		Do:    "Enlarge the state volume, or lower audit.retain_age or audit.retain_mib and restart the machine."},
	{Code: AuditIO, Class: ClassInternal, XKS: internalName,
		Title: "The audit log's disk failed.",
		Do:    "Check the disk, and restart the machine."},
	{Code: AuditBusy, Class: TryAgain, XKS: internalName,
		Title: "The audit log's disk does not keep up, or another process has the log.",
		Do:    "Try again. If it lasts, use a faster disk, and see that only one Holdfast runs."},
	{Code: AuditClosed, Class: WrongState, Status: http.StatusServiceUnavailable, XKS: internalName,
		Title: "The audit log is closed.",
		Do:    "The appliance is shutting down, or has been locked. Restart the machine."},
	{Code: AuditTimeout, Class: TryAgain, XKS: "DependencyTimeoutException",
		Title: "The audit log's disk did not answer in time.",
		Do:    "Try again. If it lasts, use a faster disk."},
	{Code: AuditSigner, Class: ClassInternal, XKS: internalName,
		Title: "A checkpoint could not be signed.",
		Do:    "Read the cause in the log: mostly the TPM failed. Restart the machine."},
}
