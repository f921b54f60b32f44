package fault_test

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"holdfast/appliance/fault"
)

// TestText: the log gets codes, message and cause; a caller the message alone.
func TestText(t *testing.T) {
	cause := errors.New("disk on fire")
	inner := fault.Wrapf(fault.AuditIO, cause, "the log cannot be written")
	outer := fault.Wrapf(fault.AuditLog, inner, "the audit log of %s cannot be opened", "x")
	outer.Also = []fault.Code{fault.CapFailed}
	for got, want := range map[string]string{
		outer.Error():                         "E_AUDIT,E_CAP: the audit log of x cannot be opened: the log cannot be written: disk on fire",
		outer.Reason():                        "the audit log of x cannot be opened: the log cannot be written: disk on fire",
		outer.Codes():                         "E_AUDIT,E_CAP",
		inner.Error():                         "E_AUDIT_IO: the log cannot be written: disk on fire",
		fault.ReasonOf(inner):                 "the log cannot be written: disk on fire",
		fault.ReasonOf(cause):                 "disk on fire",
		string(fault.CodeOf(cause)):           "internal",
		string(fault.CodeOf(nil)):             "",
		string(fault.ClassOf(nil)):            "",
		string(fault.ClassOf(cause)):          "internal",
		fault.Decoded("E_A,E_B", "m").Error(): "E_A,E_B: m",
		string(fault.CodeOf(fmt.Errorf("while: %w", outer))): "E_AUDIT",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if !errors.Is(outer, cause) {
		t.Error("the cause is not in the chain")
	}
}

// TestClassOfSeveral: several codes are worth another attempt only if each is.
func TestClassOfSeveral(t *testing.T) {
	for codes, want := range map[string]fault.Class{
		"E_TIME": fault.TryAgain, "E_TIME,E_SNP_TIME,E_NITRO_TIME": fault.TryAgain, "E_TIME,E_SNP_TCB": fault.Refused, "E_SNP_TCB,E_TIME": fault.Refused,
		"E_SEAL_MISSING": fault.TryAgain, "E_SEAL_MISSING,E_CAP": fault.ClassInternal, "": fault.Refused, "E_OF_ANOTHER_RELEASE": fault.Refused,
	} {
		if got := fault.Decoded(codes, "").Class(); got != want {
			t.Errorf("%s: %q, want %q", codes, got, want)
		}
	}
}

var reference = regexp.MustCompile(`reference=([a-z2-7]{10})\b`)

// TestAnswer: of each class. An internal error is logged once, however many hands it
// goes through, and the caller gets the reference and not the cause.
func TestAnswer(t *testing.T) {
	for _, e := range fault.All() {
		var log strings.Builder
		logger := slog.New(slog.NewTextHandler(&log, nil))
		told := fault.Answer(t.Context(), logger, "test", fmt.Errorf("while: %w", fault.Wrapf(e.Code, errors.New("the cause"), "the message")), "path", "/p")
		again := fault.Answer(t.Context(), logger, "test", told)
		if again.Error() != told.Error() || told.Err != nil || told.Code != e.Code || !strings.HasPrefix(told.Message, "the message") || strings.Contains(told.Error(), "the cause") {
			t.Errorf("%s: told %v, then %v", e.Code, told, again)
		}
		if e.Class != fault.ClassInternal {
			if log.Len() != 0 || told.Reference != "" || told.Message != "the message" {
				t.Errorf("%s: told %+v, logged %s", e.Code, told, &log)
			}
			continue
		}
		m := reference.FindStringSubmatch(told.Message)
		if m == nil || m[1] != told.Reference || strings.Count(log.String(), "\n") != 1 || strings.Count(log.String(), "reference="+m[1]) != 1 ||
			!strings.Contains(log.String(), "the cause") || !strings.Contains(log.String(), "path=/p") {
			t.Errorf("%s: told %q, logged %s", e.Code, told.Message, &log)
		}
	}
	var log strings.Builder
	told := fault.Answer(t.Context(), slog.New(slog.NewTextHandler(&log, nil)), "test", errors.New("secret detail"))
	if told.Code != fault.Internal || strings.Contains(told.Message, "secret") || !strings.Contains(log.String(), "secret detail") {
		t.Errorf("told %v, logged %s", told, &log)
	}
	seen := map[string]bool{}
	for range 10000 {
		r := fault.NewReference()
		if seen[r] || len(r) != 10 {
			t.Fatalf("the reference %q comes twice, or is of another length", r)
		}
		seen[r] = true
	}
}
