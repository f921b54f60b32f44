package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
	"holdfast/appliance/snapshot"
)

// RunMove tests that rows move from one engine to another, or another one of the same
// kind. Each function gives an empty engine each time.
func RunMove(t *testing.T, from, to func(t *testing.T) Engine) {
	t.Run("all rows", func(t *testing.T) { testMove(t, from(t), to(t), from(t)) })
	t.Run("one moment", func(t *testing.T) { testMoment(t, from(t), to(t)) })
	t.Run("all or nothing", func(t *testing.T) { testAllOrNothing(t, from(t), to) })
	t.Run("refused streams", func(t *testing.T) { testRefusedStreams(t, from(t), to(t)) })
	t.Run("where it ends", func(t *testing.T) { testMoveEnds(t, from(t), to(t)) })
}

// fill puts something into every table.
func fill(t *testing.T, s Engine) {
	t.Helper()
	ctx := t.Context()
	hsm := NewKey(store, "in-token")
	hsm.Key.Custody, hsm.Version.Custody = appliance.CustodyHSM, appliance.CustodyHSM
	hsm.Key.State, hsm.Key.DeletionAt, hsm.Key.Blocked = appliance.KeyPendingDeletion, At(40), appliance.Block{Reason: "Zürich", Since: At(2)}
	second := KeyStore(2)
	second.URIPathPrefix = ""
	full := Grant(store, 2, "")
	full.Effect, full.NotAfter, full.Conditions = appliance.EffectForbid, At(30), appliance.Conditions{SourceVPCs: []string{"vpc-1", `"`}}
	decided := *oneRequest
	decided.ID, decided.State, decided.DecidedAt, decided.Body = ID(3), approval.Done, At(5), nil
	Must(t, errors.Join(
		s.CreateInstallation(ctx, oneInstall),
		s.SetSetting(ctx, oneSetting, nil),
		makeKey(ctx, s), s.CreateKeyStore(ctx, second), s.CreateKeys(ctx, hsm, NewKey(second, "b")),
		s.CreateGrants(ctx, oneGrant), s.CreateGrants(ctx, full),
		s.CreateCredential(ctx, Credential(store, 1)), s.CreateCredential(ctx, Credential(second, 2)),
		s.RecordCredentialUse(ctx, newUses()),
		makeSession(ctx, s), s.CreateToken(ctx, oneToken), s.CreateInvitation(ctx, oneInvite),
		s.CreateApproval(ctx, oneRequest), s.CreateApproval(ctx, &decided),
		s.NoteTokenObjects(ctx, TokenObject("o")),
	))
	_, err := s.ReserveEncryptions(ctx, store.ID, oneKey.Key.ID, 1, 77)
	Must(t, err)
}

// snapshotOf gives the stream of an engine.
func snapshotOf(t *testing.T, s Engine) []byte {
	t.Helper()
	var out bytes.Buffer
	Must(t, s.Snapshot(t.Context(), &out))
	return out.Bytes()
}

// everything gives all that outlives a move.
func everything(t *testing.T, s Engine) string {
	t.Helper()
	ctx := t.Context()
	var b bytes.Buffer
	put := func(v any, err error) {
		Must(t, err)
		fmt.Fprintln(&b, show(v))
	}
	in := Got(s.Installation(ctx))(t)
	put(*in, nil)
	row := Got(s.Setting(ctx, oneSetting.Name))(t)
	put(*row, nil)
	stores := Got(s.KeyStores(ctx))(t)
	put(stores, nil)
	for _, ks := range stores {
		put(s.CountKeys(ctx, ks.ID))
		put(s.Credentials(ctx, ks.ID))
		put(s.Grants(ctx, ks.ID))
		for _, k := range Got(s.Keys(ctx, ks.ID, appliance.Page{Limit: 1000}))(t) {
			stored := Got(s.Key(ctx, ks.ID, k.ID))(t)
			put(stored.ExternalKey, nil)
			put(stored.Versions, nil)
			put(stored.Grants, nil)
		}
	}
	put(s.Accounts(ctx))
	return b.String()
}

func testMove(t *testing.T, from, to, back Engine) {
	ctx := t.Context()
	fill(t, from)
	Must(t, to.CreateToken(ctx, oneToken)) // what was there goes
	announced := 0
	to.Subscribe(func(c appliance.Change) {
		if c == (appliance.Change{}) {
			announced++
		}
	})
	Must(t, to.Restore(ctx, bytes.NewReader(snapshotOf(t, from))))
	if announced != 1 {
		t.Errorf("the change was announced %d times", announced)
	}
	Equal(t, everything(t, to), everything(t, from))
	for what, n := range map[string]int{
		"sessions":      len(Got(to.Sessions(ctx, ""))(t)),
		"invitations":   len(Got(to.Invitations(ctx))(t)),
		"tokens":        len(Got(to.Tokens(ctx))(t)),
		"noted objects": len(Got(to.TokenObjects(ctx))(t)),
	} {
		if n != 0 {
			t.Errorf("%d %s came along", n, what)
		}
	}
	if r := Got(to.Approvals(ctx, 10))(t); len(r) != 1 || r[0].State != approval.Done {
		t.Errorf("requests for approval: %s", show(r))
	}
	Must(t, back.Restore(ctx, bytes.NewReader(snapshotOf(t, to))))
	Equal(t, everything(t, back), everything(t, from))
	// The rows work: the count of keys, and references.
	Must(t, to.DeleteKey(ctx, store.ID, oneKey.Key.ID, oneKey.Key.Seal, nil))
	Equal(t, Got(to.CountKeys(ctx, store.ID))(t), 1)
}

// testMoment takes snapshots while keys are rotated: the row and the versions of each
// fit together.
func testMoment(t *testing.T, from, to Engine) {
	ctx := t.Context()
	Must(t, makeKey(ctx, from))
	rotated := make(chan struct{})
	go func() {
		defer close(rotated)
		k := *oneKey.Key
		for n := uint32(2); n < 40; n++ {
			k.CurrentVersion = n
			if err := from.AddKeyVersion(ctx, &k, Version(store, k.ID, n), k.Seal, ""); err != nil {
				t.Error(err)
			}
		}
	}()
	for done := false; !done; {
		select {
		case <-rotated:
			done = true
		default:
		}
		Must(t, to.Restore(ctx, bytes.NewReader(snapshotOf(t, from))))
		k := Got(to.Key(ctx, store.ID, oneKey.Key.ID))(t)
		if int(k.CurrentVersion) != len(k.Versions) {
			t.Fatalf("current version %d with %d versions", k.CurrentVersion, len(k.Versions))
		}
		Must(t, to.DiscardKeyStore(ctx, store.ID, store.Seal, 1))
	}
}

// testAllOrNothing: a stream that is cut off, or broken, changes nothing; and none is
// taken over key stores.
func testAllOrNothing(t *testing.T, from Engine, open func(t *testing.T) Engine) {
	ctx := t.Context()
	fill(t, from)
	stream := snapshotOf(t, from)
	to := open(t)
	Must(t, to.CreateInstallation(ctx, oneInstall))
	Must(t, to.SetSetting(ctx, oneSetting, nil))
	before := snapshotOf(t, to)
	to.Subscribe(func(appliance.Change) { t.Error("a refused change was announced") })
	for n := 0; n < len(stream); n += max(1, len(stream)/60) {
		Wants(t, to.Restore(ctx, bytes.NewReader(stream[:n])), fault.Invalid, "")
	}
	Wants(t, to.Restore(ctx, bytes.NewReader(append(bytes.Clone(stream), 0))), fault.Invalid, "follows its end")
	broken := errors.New("the disk failed")
	if err := to.Restore(ctx, io.MultiReader(bytes.NewReader(stream[:len(stream)-3]), failing{broken})); !errors.Is(err, broken) {
		t.Errorf("a reader that fails: %v", err)
	}
	Equal(t, snapshotOf(t, to), before)

	taken := open(t)
	Must(t, taken.CreateKeyStore(ctx, KeyStore(9)))
	Wants(t, taken.Restore(ctx, bytes.NewReader(stream)), fault.Conflict, "restore into a fresh one")
	Equal(t, len(Got(taken.KeyStores(ctx))(t)), 1)
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error)  { return 0, f.err }
func (f failing) Write([]byte) (int, error) { return 0, f.err }

// testRefusedStreams edits a good stream: tables, columns and rows that the schema does
// not have are refused, and named.
func testRefusedStreams(t *testing.T, from, to Engine) {
	ctx := t.Context()
	fill(t, from)
	stream := snapshotOf(t, from)
	before := snapshotOf(t, to)
	rowOf := func(table string, edit func(columns []string, row []any) []any) func(*snapshot.Table, []any) []any {
		return func(t *snapshot.Table, row []any) []any {
			if t.Name == table {
				return edit(t.Columns, row)
			}
			return row
		}
	}
	for name, tt := range map[string]struct {
		table func(*snapshot.Table) bool // false leaves it out
		row   func(*snapshot.Table, []any) []any
		want  string
	}{
		"a table too few":  {table: func(t *snapshot.Table) bool { return t.Name != "settings" }, want: "lacks the table settings"},
		"another table":    {table: func(t *snapshot.Table) bool { renamed(&t.Name, "settings", "policy_version"); return true }, want: "policy_version"},
		"an unknown table": {table: func(t *snapshot.Table) bool { renamed(&t.Name, "settings", "sqlite_schema"); return true }, want: "sqlite_schema"},
		"another column":   {table: func(t *snapshot.Table) bool { renamed(&t.Columns[0], "access_key_id", "rowid"); return true }, want: "credentials"},
		"a text for a number": {row: rowOf("external_keys", func(columns []string, row []any) []any {
			for i, c := range columns {
				if c == "can_encrypt" {
					row[i] = "seven"
				}
			}
			return row
		}), want: "row 1 of its table external_keys"},
		"nothing for a seal": {row: rowOf("grants", func(columns []string, row []any) []any {
			for i, c := range columns {
				if c == "seal" {
					row[i] = nil
				}
			}
			return row
		}), want: "row 1 of its table grants"},
		"a key of no key store": {row: rowOf("key_stores", func(_ []string, row []any) []any { return nil }), want: "of its table"},
		"a row twice":           {row: rowOf("users", func(_ []string, row []any) []any { return append(row, row...) }), want: "row 2 of its table users"},
	} {
		t.Run(name, func(t *testing.T) {
			Wants(t, to.Restore(ctx, bytes.NewReader(edited(t, stream, tt.table, tt.row))), fault.Invalid, tt.want)
			Equal(t, snapshotOf(t, to), before)
		})
	}
	r := Got(snapshot.NewReader(bytes.NewReader(stream)))(t)
	var newer bytes.Buffer
	w := snapshot.NewWriter(&newer, r.Schema()+1)
	Must(t, w.Close())
	Wants(t, to.Restore(ctx, &newer), fault.Conflict, "newer Holdfast")
	Must(t, to.Restore(ctx, bytes.NewReader(stream)))
}

func renamed(name *string, from, to string) {
	if *name == from {
		*name = to
	}
}

// edited copies a stream, table by table. A row that becomes longer is two rows, nil is
// none.
func edited(t *testing.T, stream []byte, table func(*snapshot.Table) bool, row func(*snapshot.Table, []any) []any) []byte {
	t.Helper()
	r := Got(snapshot.NewReader(bytes.NewReader(stream)))(t)
	var out bytes.Buffer
	w := snapshot.NewWriter(&out, r.Schema())
	for {
		tab := Got(r.Table())(t)
		if tab == nil {
			Must(t, w.Close())
			return out.Bytes()
		}
		keep := table == nil || table(tab)
		if keep {
			Must(t, w.Table(*tab))
		}
		for {
			values := Got(r.Row())(t)
			if values == nil {
				break
			}
			if row != nil {
				values = row(tab, values)
			}
			for ; keep && len(values) >= len(tab.Columns); values = values[len(tab.Columns):] {
				Must(t, w.Row(values[:len(tab.Columns)]))
			}
		}
	}
}

// testMoveEnds: a context that ends, and a writer that fails, end it.
func testMoveEnds(t *testing.T, from, to Engine) {
	fill(t, from)
	stream := snapshotOf(t, from)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	Wants(t, from.Snapshot(ended, io.Discard), fault.Timeout, "")
	Wants(t, to.Restore(ended, bytes.NewReader(stream)), fault.Timeout, "")
	ctx, cancel := context.WithCancel(t.Context())
	Wants(t, to.Restore(ctx, io.MultiReader(bytes.NewReader(stream[:len(stream)/2]), ending{cancel}, bytes.NewReader(stream[len(stream)/2:]))), fault.Timeout, "")
	Equal(t, len(Got(to.KeyStores(t.Context()))(t)), 0)
	broken := errors.New("the disk failed")
	if err := from.Snapshot(t.Context(), failing{broken}); !errors.Is(err, broken) {
		t.Errorf("a writer that fails: %v", err)
	}
}

// ending ends a context when it is read.
type ending struct{ cancel context.CancelFunc }

func (e ending) Read([]byte) (int, error) {
	e.cancel()
	return 0, io.EOF
}
