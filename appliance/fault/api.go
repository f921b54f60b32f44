package fault

import "net/http"

// The codes of the domain and of the admin API.
const (
	Invalid         Code = "invalid"
	NotFound        Code = "not_found"
	Exists          Code = "exists"
	Conflict        Code = "conflict"
	Changed         Code = "changed"
	Stale           Code = "stale"
	Unauthenticated Code = "unauthenticated"
	Presence        Code = "presence"
	ReasonMissing   Code = "reason_missing"
	Forbidden       Code = "forbidden"
	Denied          Code = "denied"
	KeyUsage        Code = "key_usage"
	Ciphertext      Code = "ciphertext"
	Throttled       Code = "throttled"
	TooLarge        Code = "too_large"
	BodyTooLong     Code = "body_too_long"
	BodyType        Code = "body_type"
	NotAcceptable   Code = "not_acceptable"
	NoMethod        Code = "no_method"
	Timeout         Code = "timeout"
	Locked          Code = "locked"
	Tampered        Code = "tampered"
	Gone            Code = "gone"
	HSMKey          Code = "hsm_key"
	Internal        Code = "internal"
	AwaitsApproval  Code = "awaits_approval"
	Unreachable     Code = "unreachable"
	Failed          Code = "failed"
	KeyReused       Code = "idempotency_key_reused"
	KeysExhausted   Code = "idempotency_keys_exhausted"
	AnswerPending   Code = "answer_pending"
	AnswerLost      Code = "answer_lost"
)

// unusable is the exit code of a call that cannot be used as it is.
const unusable = 2

// internalName is the XKS error name of what the caller learns nothing about.
const internalName = "InternalException"

var apiCodes = []Entry{
	{Code: Invalid, Class: Refused, Status: http.StatusBadRequest, Exit: unusable, XKS: "ValidationException",
		Title: "An argument is malformed or out of range.",
		Do:    "Correct what the message names."},
	{Code: NotFound, Class: Refused, Status: http.StatusNotFound, XKS: "KeyNotFoundException",
		Title: "The named thing does not exist.",
		Do:    "Check the name. `holdfast keystore list` and `holdfast key list KEYSTORE` show what there is."},
	{Code: Exists, Class: WrongState, Status: http.StatusConflict, XKS: internalName,
		Title: "A thing of that name exists already.",
		Do:    "Choose another name, or use what exists."},
	{Code: Conflict, Class: WrongState, Status: http.StatusConflict, XKS: "InvalidStateException",
		Title: "The thing exists, but its state forbids the operation.",
		Do:    "Do first what the message names. The same again fails again."},
	{Code: Changed, Class: ClassStale, Status: http.StatusConflict, XKS: internalName,
		Title: "Another operation changed the thing at the same time.",
		Do:    "Look at it, and do the operation again if it is still wanted."},
	{Code: Stale, Class: ClassStale, Status: http.StatusPreconditionFailed,
		Title: "The request names a revision in If-Match that is no longer the present one.",
		Do:    "Read the thing again, and decide on what it is now."},
	{Code: Unauthenticated, Class: Refused, Status: http.StatusUnauthorized, XKS: "AuthenticationFailedException",
		Title: "It is not proven who asks.",
		Do:    "Sign in, or send a valid API token. An administrator makes one with `holdfast token create NAME --role ROLE --key-store NAMES --operation IDS --network CIDRS --out FILE`."},
	{Code: Presence, Class: Refused, Status: http.StatusForbidden,
		Title: "The operation needs a fresh proof that the user is present.",
		Do:    "Prove again who you are, with your passkey or password, and repeat the operation."},
	{Code: ReasonMissing, Class: Refused, Status: http.StatusBadRequest,
		Title: "The operation needs a second person, and it is not said why it is asked for.",
		Do:    "Say why, for the person who approves: with `--why TEXT`, with the header Holdfast-Reason of the API, or in the form's field."},
	{Code: Forbidden, Class: Refused, Status: http.StatusForbidden,
		Title: "The administrator's role, or a rule of approval, does not allow it.",
		Do:    "Ask a user whose role allows it; the roles are in docs/console.md#roles."},
	{Code: Denied, Class: Refused, Status: http.StatusForbidden, XKS: "AccessDeniedException",
		Title: "No grant allows the operation, or one forbids it.",
		Do:    "Find out which grant decides with `holdfast grant test KEYSTORE KEYID --principal P --operation Encrypt`. Add one with `holdfast grant add KEYSTORE --principal P --operations Encrypt,Decrypt` if it should be allowed."},
	{Code: KeyUsage, Class: Refused, XKS: "InvalidKeyUsageException",
		Title: "The usage of the key does not include the operation.",
		Do:    "Use a key whose usage includes it; `holdfast key show KEYSTORE KEYID` shows the usage."},
	{Code: Ciphertext, Class: Refused, Status: http.StatusBadRequest, XKS: "InvalidCiphertextException",
		Title: "The ciphertext, or what belongs to it, is not as it was encrypted.",
		Do:    "Check that the ciphertext is whole, and that it was encrypted under this key with the same encryption context."},
	{Code: Throttled, Class: TryAgain, Status: http.StatusTooManyRequests, XKS: "ThrottlingException",
		Title: "There were too many requests.",
		Do:    "Wait, and try again. A key store's quota is shown by `holdfast keystore show NAME`."},
	{Code: TooLarge, Class: Refused, Status: http.StatusBadRequest, XKS: "UnsupportedOperationException",
		Title: "A value exceeds what Holdfast supports.",
		Do:    "Send less than the limit that the message names."},
	{Code: BodyTooLong, Class: Refused, Status: http.StatusRequestEntityTooLarge,
		Title: "The body of a request is longer than any that the operation takes.",
		Do:    "Send a shorter body: the message names the limit."},
	{Code: BodyType, Class: Refused, Status: http.StatusUnsupportedMediaType,
		Title: "The Content-Type of a request is not one that the operation takes.",
		Do:    "Send the body as the media type that the message names, and say so in the header Content-Type."},
	{Code: NotAcceptable, Class: Refused, Status: http.StatusNotAcceptable,
		Title: "The header Accept of a request has no media type that the operation can answer with.",
		Do:    "Leave the header Accept out, or name in it what the message names."},
	{Code: NoMethod, Class: Refused, Status: http.StatusMethodNotAllowed,
		Title: "The path of a request has no such method.",
		Do:    "Use a method that the header Allow of the answer names."},
	{Code: Timeout, Class: TryAgain, XKS: "DependencyTimeoutException",
		Title: "The HSM or the database did not answer in time.",
		Do:    "Try again. If it lasts, look at the HSM and its network; `holdfast status` shows its health."},
	{Code: Locked, Class: WrongState, Status: http.StatusServiceUnavailable, XKS: internalName,
		Title: "The appliance is locked: no key can be used.",
		Do:    "Find the reason with `holdfast status`, and do what its code asks for."},
	{Code: Tampered, Class: ClassInternal, XKS: internalName,
		Title: "A stored row does not match its seal.",
		Do:    "Find out who changed the database. Restore the last good backup into a fresh appliance, as docs/operations.md#backup-and-restore describes."},
	{Code: Gone, Class: ClassInternal, XKS: internalName,
		Title: "The HSM answers, and has no key object for a key version in its custody.",
		Do:    "Restore the key object from the HSM's own backup. Without it, nobody can decrypt what was encrypted under that version."},
	{Code: HSMKey, Class: WrongState, Status: http.StatusConflict,
		Title: "The HSM did not make a key, or did not take one.",
		Do:    "Read in the message what the HSM said. `holdfast status` shows whether it answers. If it cannot have keys of custody hsm, create the key with --custody cached."},
	{Code: Internal, Class: ClassInternal, XKS: internalName,
		Title: "The appliance, or something that it depends on, failed.",
		Do:    "Search the appliance's log for the reference in the answer: its line has the cause."},
	{Code: AwaitsApproval, Class: WrongState,
		Title: "The operation was not done: it waits for the approval of a second person.",
		Do:    "Have another person approve it in the console. `holdfast approval list` shows what waits."},
	{Code: Unreachable, Class: TryAgain,
		Title: "A command cannot reach the appliance, or what answers there is no appliance.",
		Do:    "Check that the appliance runs, and that --socket or --server names it."},
	{Code: Failed, Class: Refused,
		Title: "A command could not do its work, for a reason on the computer that it runs on.",
		Do:    "Correct what the message names, and call the command again."},
	{Code: KeyReused, Class: Refused, Status: http.StatusUnprocessableEntity,
		Title: "Another request was sent with this idempotency key before.",
		Do:    "Use a new key for each request. Send the same key only with the same method, path, body, reason and If-Match."},
	{Code: KeysExhausted, Class: TryAgain, Status: http.StatusTooManyRequests,
		Title: "As many answers are kept as may be for one user or API token.",
		Do:    "Leave out the header Idempotency-Key, or wait: answers are kept for 24 hours."},
	{Code: AnswerPending, Class: TryAgain, Status: http.StatusConflict,
		Title: "A request with this idempotency key is under way.",
		Do:    "Wait, and send the same request with the same key again: it is answered as soon as the first one is done."},
	{Code: AnswerLost, Class: WrongState, Status: http.StatusConflict,
		Title: "A request with this idempotency key was begun, and nobody has its answer: it was done whole, or in part.",
		Do:    "Look at what the request was to change, and at `holdfast audit search`. Ask only for what is missing, with a new key: the whole request with a new key would be done a second time. If it made a secret, replace that."},
}
