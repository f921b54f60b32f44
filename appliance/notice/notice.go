// Package notice tells people that a request for approval waits, or was decided, and that a recovery
// code of a user was used: by e-mail, and by one post to a webhook. It is for those who look at neither console nor API all day.
//
// A notice says what is asked, by whom, why, and where to look at it. It has no secret, and no
// link that approves by itself. Notices are not part of a decision: one that is lost, or comes
// twice, changes nothing, so they are kept in memory alone.
package notice

import (
	"context"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Event is what a notice is about.
type Event string

// The events.
const (
	Asked    Event = "approval.asked"
	Approved Event = "approval.approved"
	Rejected Event = "approval.rejected"
	// RecoveryCode is the use of a recovery code of a user.
	RecoveryCode Event = "account.recovery_code_used"
	// Test is a notice that an administrator has sent to see whether it arrives.
	Test Event = "test"
)

// Request is a request for approval, as a notice tells of it. Its texts are of users: they are
// cleaned and shortened when the notice is made ([Notice.cleaned]).
type Request struct {
	// ID is that of the request; Operation the API's name of what is asked for, and Words what
	// its button says. Object is what it would be done to; empty for nothing in particular.
	ID        string    `json:"id"`
	Operation string    `json:"operation"`
	Words     string    `json:"words"`
	Object    string    `json:"object,omitempty"`
	AskedBy   string    `json:"asked_by"`
	Reason    string    `json:"reason"`
	ExpiresAt time.Time `json:"expires_at"`
	// DecidedBy and DecisionReason are empty before it is decided.
	DecidedBy      string `json:"decided_by,omitempty"`
	DecisionReason string `json:"decision_reason,omitempty"`
	// Link is the page of the request in the console; empty if its address is not known.
	Link string `json:"link,omitempty"`
}

// Recovery is the use of a recovery code, as a notice tells of it.
type Recovery struct {
	// User is whose code it was; Address from where it was used, without the port.
	User    string    `json:"user"`
	At      time.Time `json:"at"`
	Address string    `json:"address"`
	// Link is the user's page in the console; empty if its address is not known.
	Link string `json:"link,omitempty"`
}

// Notice is one.
type Notice struct {
	// ID is the same each time that it is sent: a receiver can tell a repetition by it.
	ID      string
	Event   Event
	At      time.Time
	Request Request
	// Recovery is what a notice of the event [RecoveryCode] is about; such a one has no Request.
	Recovery Recovery
	// To gives the e-mail addresses of users who are to hear of it; nil for none. It is called
	// when the notice is sent, outside of the request that it is about.
	To func(ctx context.Context) ([]string, error)
}

// The most characters that a notice has of a text.
const (
	maxText = 256
	maxName = 128
)

// cleaned gives the notice with texts that neither break a line, nor look like another part of
// the notice, nor are long.
func (n Notice) cleaned() Notice {
	r := &n.Request
	for _, text := range []*string{&r.ID, &r.Operation, &r.Words, &r.AskedBy, &r.DecidedBy, &n.Recovery.User, &n.Recovery.Address} {
		*text = clean(*text, maxName)
	}
	for _, text := range []*string{&r.Object, &r.Reason, &r.DecisionReason} {
		*text = clean(*text, maxText)
	}
	return n
}

// clean gives a text in one line, without characters that are not printed or that turn the
// direction of writing, and of at most so many characters.
func clean(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r) || r == utf8.RuneError:
			return -1
		}
		return r
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	if utf8.RuneCountInString(text) > most {
		text = string([]rune(text)[:most-1]) + "…"
	}
	return text
}

// text is the notice of a recovery code in full.
func (r Recovery) text() string {
	where := "Look at it in the console, under Account."
	if r.Link != "" {
		where = "Look at it in the console: " + r.Link
	}
	return strings.Join([]string{"A recovery code was used in the place of the authenticator app.", "",
		"User: " + r.User, "When: " + r.At.UTC().Format("2006-01-02 15:04:05 UTC"), "From: " + r.Address, "",
		"If it was not the user, somebody has the password and the recovery codes: set a new password, create new recovery codes, and sign out everywhere.", where}, "\n") + "\n"
}

// Title is the notice in one line.
func (n Notice) Title() string {
	r := n.Request
	what := r.Words
	if r.Object != "" {
		what += " (" + r.Object + ")"
	}
	switch n.Event {
	case Asked:
		return "Holdfast: " + r.AskedBy + " asks for approval: " + what
	case Approved:
		return "Holdfast: approved by " + r.DecidedBy + ": " + what
	case Rejected:
		return "Holdfast: rejected by " + r.DecidedBy + ": " + what
	case RecoveryCode:
		return "Holdfast: a recovery code of " + n.Recovery.User + " was used"
	}
	return "Holdfast: a test notice"
}

// Text is the notice in full.
func (n Notice) Text() string {
	r := n.Request
	var lines []string
	add := func(term, value string) {
		if value != "" {
			lines = append(lines, term+": "+value)
		}
	}
	switch n.Event {
	case Test:
		return "This is a test notice of Holdfast, sent by " + r.AskedBy + ". Requests for approval are announced in the same way.\n"
	case RecoveryCode:
		return n.Recovery.text()
	case Asked:
		lines = append(lines, "An operation waits for the approval of a second person.", "")
	case Approved:
		lines = append(lines, "An operation was approved. If it shows or takes a secret, or is a download, the one who asked does it now.", "")
	case Rejected:
		lines = append(lines, "An operation was rejected, and is not done.", "")
	}
	add("Operation", r.Words)
	add("On", r.Object)
	add("Asked by", r.AskedBy)
	add("Why", r.Reason)
	add("Decided by", r.DecidedBy)
	add("Because", r.DecisionReason)
	if n.Event != Rejected {
		add("Expires", r.ExpiresAt.UTC().Format("2006-01-02 15:04 UTC"))
	}
	lines = append(lines, "")
	if r.Link != "" {
		lines = append(lines, "Look at it in the console: "+r.Link)
	} else {
		lines = append(lines, "Look at it in the console, under Approvals.")
	}
	lines = append(lines, "This notice decides nothing: whoever approves signs in, sees what would change, and says why.")
	return strings.Join(lines, "\n") + "\n"
}
