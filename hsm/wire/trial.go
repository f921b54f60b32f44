package wire

import "strings"

// The trials of a token, in the order in which they are done.
const (
	// TryKey makes a key as the master key is made.
	TryKey = "key"
	// TryDialect finds the dialect of AES-GCM, or has a key wrapped and unwrapped.
	TryDialect = "dialect"
	// TrySessions opens sessions, at most Settings.MaxSessions.
	TrySessions = "sessions"
	// TryLabel makes a key with a label as long as those of keys of custody hsm.
	TryLabel = "label"
	// TryID makes a key with a CKA_ID of [LongID] bytes.
	TryID = "id"
)

// Trials are those that are done in a token that does AES-GCM; one that does not has no use for
// the last two.
var Trials = []string{TryKey, TryDialect, TrySessions, TryLabel, TryID}

// LongLabel and LongID are how long the names are that are tried, in bytes.
const (
	LongLabel = 31 // of keys of custody hsm and of data objects, the longest that Holdfast makes
	LongID    = 32
)

// TrialLabel gives the longest label of what trials make, whose others begin with label.
func TrialLabel(label string) string {
	return label + "-" + strings.Repeat("0", max(LongLabel-len(label)-1, 0))
}

// Found is what trials found out so far.
type Found struct {
	Library Library `json:"library"`
	// Mechanisms are those that Holdfast can use.
	Mechanisms []Mechanism `json:"mechanisms"`
	// Lacks says which mechanism is missing; empty if none is.
	Lacks string `json:"lacks,omitempty"`
	// Wrapping names the mechanism that takes the place of AES-GCM; empty if the token has that.
	Wrapping string `json:"wrapping,omitempty"`
	// Dialects are those that were tried, in their order. The last one may have worked.
	Dialects []Spoken `json:"dialects,omitempty"`
	// Dialect is the one that works; empty if none does. Same are others that are no different.
	Dialect string   `json:"dialect,omitempty"`
	Same    []string `json:"same_dialects,omitempty"`
	// Sessions is how many could be open at once; SessionsEnd says why no more could, and is empty if
	// more were not tried.
	Sessions    int    `json:"sessions"`
	SessionsEnd string `json:"sessions_end,omitempty"`
}

// Library is what a module says about itself (PKCS#11 v2.40, CK_INFO).
type Library struct {
	Manufacturer string `json:"manufacturer"`
	Description  string `json:"description"`
	Version      string `json:"version"`
	// Cryptoki is the version of PKCS#11.
	Cryptoki string `json:"cryptoki"`
}

// Mechanism is one that Holdfast can use, and for what the token has it (PKCS#11 v2.40,
// CK_MECHANISM_INFO).
type Mechanism struct {
	Name string `json:"name"`
	Code uint   `json:"code"`
	// Uses are generate, encrypt, decrypt, wrap and unwrap; none if the token lacks it.
	Uses []string `json:"uses"`
}

// Spoken is a dialect that was tried.
type Spoken struct {
	Name string `json:"name"`
	// Error says why it does not work; empty if it does.
	Error string `json:"error,omitempty"`
}
