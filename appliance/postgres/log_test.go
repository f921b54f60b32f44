package postgres_test

import (
	"testing"

	"holdfast/appliance/fault"
	"holdfast/appliance/postgres"
	"holdfast/appliance/postgres/postgrestest"
	"holdfast/appliance/storetest"
)

func TestLog(t *testing.T) {
	s := postgrestest.Start(t)
	ctx := t.Context()
	l, err := postgres.Open(ctx, postgres.Options{URL: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	storetest.Must(t, l.Append(ctx, 1, []byte("one")))
	storetest.Wants(t, l.Append(ctx, 1, []byte("other")), fault.Changed, "change 1")
	storetest.Wants(t, l.Append(ctx, 3, []byte("three")), fault.Conflict, "lacks change 2")
	if body, err := l.Change(ctx, 1); err != nil || string(body) != "one" {
		t.Errorf("%q %v", body, err)
	}
	_, err = l.Change(ctx, 2)
	storetest.Wants(t, err, fault.NotFound, "")
}

func TestAsynchronous(t *testing.T) {
	s := postgrestest.Start(t, "synchronous_commit=off")
	_, err := postgres.Open(t.Context(), postgres.Options{URL: s.URL})
	storetest.Wants(t, err, fault.Invalid, "synchronous_commit=off")
	l, err := postgres.Open(t.Context(), postgres.Options{URL: s.URL, Asynchronous: true})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}
