package audit

import "fmt"

// Code names a kind of failure. Codes are stable: scripts may rely on them.
type Code string

// What Verify, CheckInclusion and Open find wrong with a log.
const (
	CodeEdited             Code = "E_AUDIT_EDITED"              // a record is not the one that was logged
	CodeDropped            Code = "E_AUDIT_DROPPED"             // records are missing between two others
	CodeOrder              Code = "E_AUDIT_ORDER"               // a record stands twice, or at another's place
	CodeTruncated          Code = "E_AUDIT_TRUNCATED"           // the log ends before a checkpoint
	CodeMalformed          Code = "E_AUDIT_MALFORMED"           // a line is no record
	CodeSegment            Code = "E_AUDIT_SEGMENT"             // a segment is not the one that its name says
	CodeSegmentMissing     Code = "E_AUDIT_SEGMENT_MISSING"     // a segment is gone, and no retention removed it
	CodeCheckpointForged   Code = "E_AUDIT_CHECKPOINT_FORGED"   // a signature is wrong, or of an unknown key
	CodeCheckpointRemoved  Code = "E_AUDIT_CHECKPOINT_REMOVED"  // checkpoints are missing, or all are
	CodeCheckpointMismatch Code = "E_AUDIT_CHECKPOINT_MISMATCH" // a signed checkpoint is of other records
	CodeLogID              Code = "E_AUDIT_LOG_ID"              // a checkpoint is of another log
	CodeRolledBack         Code = "E_AUDIT_ROLLED_BACK"         // a checkpoint kept elsewhere is newer than the log
	CodeTree               Code = "E_AUDIT_TREE"                // the file of tree hashes is damaged; the records are not
	CodeProof              Code = "E_AUDIT_PROOF"               // a proof of inclusion does not hold
)

// What else may go wrong.
const (
	CodeInvalid  Code = "E_AUDIT_INVALID"   // the caller gave something that is not allowed
	CodeNotFound Code = "E_AUDIT_NOT_FOUND" // there is no such record
	CodeNoSpace  Code = "E_AUDIT_NO_SPACE"  // the disk is full, or only the reserve is left
	CodeIO       Code = "E_AUDIT_IO"        // the disk failed
	CodeBusy     Code = "E_AUDIT_BUSY"      // the disk does not keep up, or another process has the log
	CodeClosed   Code = "E_AUDIT_CLOSED"    // the log is closed
	CodeTimeout  Code = "E_AUDIT_TIMEOUT"   // the context ended
	CodeSigner   Code = "E_AUDIT_SIGNER"    // a checkpoint could not be signed
)

// Error is every error of this package.
type Error struct {
	Code Code
	// Message is one line that says what is wrong, and what to do if that is
	// known.
	Message string
	// Err is the cause; nil if there is none.
	Err error
}

func (e *Error) Error() string {
	if e.Err == nil {
		return string(e.Code) + ": " + e.Message
	}
	return fmt.Sprintf("%s: %s: %v", e.Code, e.Message, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

func Errorf(code Code, cause error, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Err: cause}
}
