package storetest

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"holdfast/appliance/fault"
)

// Must fails the test if there is an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Wants fails unless err has the code, and a message of one line with the part.
func Wants(t testing.TB, err error, code fault.Code, part string) {
	t.Helper()
	var e *fault.Fault
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("error is %v; want code %s", err, code)
	}
	if !strings.Contains(e.Message, part) || strings.Contains(e.Message, "\n") {
		t.Fatalf("message is %q; want one line with %q", e.Message, part)
	}
}

// Equal fails the test unless the values are deeply equal.
func Equal(t testing.TB, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", show(got), show(want))
	}
}

func show(v any) string {
	r := reflect.ValueOf(v)
	if r.Kind() != reflect.Slice || r.Type().Elem().Kind() != reflect.Pointer {
		return fmt.Sprintf("%+v", v)
	}
	var b strings.Builder
	for i := range r.Len() {
		fmt.Fprintf(&b, "%+v ", r.Index(i).Elem())
	}
	return b.String()
}

// Got gives the value, or fails the test.
func Got[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		Must(t, err)
		return v
	}
}
