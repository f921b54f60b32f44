package appliance_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/hsm/hsmtest"
)

// handEdited is an appliance whose database is edited while it runs.
type handEdited struct {
	*noted
	db *sql.DB
}

func newHandEdited(t *testing.T) *handEdited {
	t.Helper()
	h := &handEdited{noted: newNoted(t)}
	must(h.bed.Appliance.RotateKey(ctx, "demo", "cached", nil))(t)
	must(h.bed.Appliance.AddGrant(ctx, "demo", appliance.Grant{KeyID: "cached", Effect: appliance.EffectForbid, Principal: "arn:aws:iam::111111111111:role/eve",
		Operations: []appliance.Operation{appliance.OpEncrypt}, Conditions: appliance.Conditions{SourceVPCs: []string{"vpc-1"}}, NotAfter: time.Now().Add(day)}))(t)
	h.db = must(sql.Open("sqlite", h.bed.DB))(t)
	h.db.SetMaxOpenConns(1) // which has the temporary table
	t.Cleanup(func() { _ = h.db.Close() })
	return h
}

func (h *handEdited) exec(t *testing.T, statement string, args ...any) {
	t.Helper()
	res := must(h.db.ExecContext(ctx, statement, args...))(t)
	if n := must(res.RowsAffected())(t); n == 0 {
		t.Fatalf("%s: changed nothing", statement)
	}
	h.bed.Accept(t)
}

// backup gives a backup and what it says.
func (h *handEdited) backup(t *testing.T) ([]byte, *appliance.BackupReport) {
	t.Helper()
	made := must(h.bed.Appliance.Backup(ctx, checkpoint))(t)
	defer made.Close()
	var out bytes.Buffer
	if n := must(made.WriteTo(&out))(t); n != made.Size || int(n) != out.Len() {
		t.Errorf("%d bytes were written of %d", n, made.Size)
	}
	return out.Bytes(), made.Report
}

// unsealed are the columns that change while the appliance serves, or are derived.
var unsealed = map[string]string{
	"key_versions.encryptions": "counts, with a limit of its own",
	"credentials.last_used_at": "for people",
	"key_stores.key_count":     "is counted again at a restore",
	"installation.created_at":  "decides nothing",
}

// TestEveryColumn edits each column of each table that the domain seals: a backup names
// the row, or the schema does not have such a row.
func TestEveryColumn(t *testing.T) {
	h := newHandEdited(t)
	kinds := map[string][]string{
		"key_stores": {"key store"}, "external_keys": {"key"}, "key_versions": {"key version", "key"},
		"credentials": {"credential"}, "grants": {"grant"}, "settings": {"setting"}, "installation": {"block", "incarnation"},
	}
	_, clean := h.backup(t)
	if clean.DamagedRows != 0 || clean.Keys != 3 || clean.Versions != 4 || clean.InToken != 2 {
		t.Fatalf("before any edit: %+v", clean)
	}
	for table, kind := range kinds {
		rows := must(h.db.QueryContext(ctx, `SELECT name, type, "notnull" FROM pragma_table_info(?)`, table))(t)
		var columns [][3]string
		for rows.Next() {
			var c [3]string
			if err := rows.Scan(&c[0], &c[1], &c[2]); err != nil {
				t.Fatal(err)
			}
			columns = append(columns, c)
		}
		_ = rows.Close()
		if len(columns) == 0 {
			t.Errorf("there is no table %s", table)
		}
		for _, c := range columns {
			name := table + "." + c[0]
			edit := map[string]string{"INTEGER": "coalesce(%[2]s, 0) + 1", "TEXT": "coalesce(%[2]s, '') || 'x'", "BLOB": "CAST(coalesce(%[2]s, x'') || x'00' AS BLOB)"}[c[1]]
			tx := must(h.db.BeginTx(ctx, nil))(t)
			_ = must(tx.ExecContext(ctx, fmt.Sprintf(`CREATE TEMP TABLE before AS SELECT * FROM %q`, table)))(t)
			// The last row: of the keys that is one in the HSM, of the grants the one with conditions.
			where := map[string]string{"external_keys": "WHERE id = 'victim'", "key_versions": "WHERE key_id = 'victim'", "grants": "WHERE conditions <> ''"}[table]
			_, err := tx.ExecContext(ctx, fmt.Sprintf(`UPDATE %[1]q SET %[2]s = `+edit+` %[3]s`, table, c[0], where))
			if err != nil { // the schema refuses it
				_ = tx.Rollback()
				if !strings.Contains(err.Error(), "constraint") {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			h.bed.Accept(t)
			made, err := h.bed.Appliance.Backup(ctx, "")
			switch {
			case err != nil: // what refers to it is lost, or it is not this installation
				if code := fault.CodeOf(err); code != fault.Invalid && code != fault.Tampered {
					t.Errorf("%s: %v", name, err)
				}
			case unsealed[name] != "":
				if made.Report.DamagedRows != 0 {
					t.Errorf("%s is not sealed, and damaged are %v", name, made.Report.Damaged)
				}
			case made.Report.DamagedRows == 0 || !slices.Contains(kind, made.Report.Damaged[0].Kind):
				t.Errorf("%s: damaged are %v, want a %s", name, made.Report.Damaged, kind)
			}
			if err == nil {
				_ = made.Close()
			}
			h.putBack(t, table)
		}
	}
	if _, again := h.backup(t); again.DamagedRows != 0 {
		t.Errorf("after the edits: %v", again.Damaged)
	}
}

// putBack has the rows of before.
func (h *handEdited) putBack(t *testing.T, table string) {
	t.Helper()
	for _, s := range []string{`DELETE FROM ` + table, `INSERT INTO ` + table + ` SELECT * FROM before`, `DROP TABLE before`} {
		_ = must(h.db.ExecContext(ctx, s))(t)
	}
	h.bed.Accept(t)
}

// damages is one damaged row of each kind: how it comes about, how the backup names it,
// and how it is discarded.
func (h *handEdited) damages(t *testing.T) []damagedCase {
	t.Helper()
	grants := must(h.bed.Appliance.Grants(ctx, "demo"))(t)
	forbid := grants[slices.IndexFunc(grants, func(g *appliance.Grant) bool { return g.Effect == appliance.EffectForbid })]
	credential := must(h.bed.Appliance.Credentials(ctx, "demo"))(t)[0]
	return []damagedCase{
		{"key", `UPDATE external_keys SET can_decrypt = 0 WHERE id = 'victim'`, appliance.DamagedRow{Kind: "key", KeyStore: "demo", ID: "victim"},
			appliance.DiscardTarget{KeyStore: "demo", Key: "victim"}, "holdfast key discard demo victim"},
		{"key version", `UPDATE key_versions SET material = CAST(material || x'00' AS BLOB) WHERE key_id = 'cached' AND version = 1`, appliance.DamagedRow{Kind: "key version", KeyStore: "demo", ID: "cached", Version: 1},
			appliance.DiscardTarget{KeyStore: "demo", Key: "cached", Version: 1}, "holdfast key discard demo cached --version 1"},
		{"credential", `UPDATE credentials SET active = 0 WHERE access_key_id = '` + credential.AccessKeyID + `'`, appliance.DamagedRow{Kind: "credential", KeyStore: "demo", ID: credential.AccessKeyID},
			appliance.DiscardTarget{KeyStore: "demo", Credential: credential.AccessKeyID}, "holdfast credential discard demo " + credential.AccessKeyID},
		{"grant", `UPDATE grants SET principal = '*' WHERE id = '` + forbid.ID + `'`, appliance.DamagedRow{Kind: "grant", KeyStore: "demo", ID: forbid.ID},
			appliance.DiscardTarget{KeyStore: "demo", Grant: forbid.ID}, "holdfast grant discard demo " + forbid.ID},
		{"grant that cannot be read", `UPDATE grants SET conditions = '{' WHERE id = '` + forbid.ID + `'`, appliance.DamagedRow{Kind: "grant", KeyStore: "demo", ID: forbid.ID},
			appliance.DiscardTarget{KeyStore: "demo", Grant: forbid.ID}, "holdfast grant discard demo " + forbid.ID},
		{"setting", `UPDATE settings SET value = value || ' ' WHERE name = 'setup'`, appliance.DamagedRow{Kind: "setting", ID: "setup"},
			appliance.DiscardTarget{Setting: "setup"}, "holdfast setting discard setup"},
		{"key store", `UPDATE key_stores SET requests_per_second = 7`, appliance.DamagedRow{Kind: "key store", KeyStore: "demo"},
			appliance.DiscardTarget{KeyStore: "demo", Keys: 3}, "holdfast keystore discard demo --keys N"},
		{"key store that does not unwrap", `UPDATE key_stores SET wrapped_key = x'00'`, appliance.DamagedRow{Kind: "key store", KeyStore: "demo"},
			appliance.DiscardTarget{KeyStore: "demo", Keys: 3}, "holdfast keystore discard demo --keys N"},
	}
}

type damagedCase struct {
	name, statement string
	row             appliance.DamagedRow
	target          appliance.DiscardTarget
	remedy          string
}

// TestDamagedRow: a backup names the damaged row, a restore of that backup takes over
// all others and serves, and the row can be discarded where it is and where it was
// restored. One that is good cannot. Nothing is destroyed in the HSM.
func TestDamagedRow(t *testing.T) {
	for i := range (&handEdited{noted: newNoted(t)}).kinds() {
		h := newHandEdited(t)
		d := h.damages(t)[i]
		t.Run(d.name, func(t *testing.T) {
			objects := keyObjects(t, h.bed.Device)
			if _, err := h.bed.Appliance.Discard(ctx, d.target); fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), "is not damaged") {
				t.Errorf("discarding what is good: %v", err)
			}
			if err := h.bed.Appliance.CheckDiscard(ctx, d.target); fault.CodeOf(err) != fault.Conflict {
				t.Errorf("asking to discard what is good: %v", err)
			}
			// A note of before, put back: the object of a discarded key stays all the same.
			if err := h.bed.Store.NoteTokenObjects(ctx, h.note(t, h.victim, "victim", 1)); err != nil {
				t.Fatal(err)
			}
			h.exec(t, d.statement)
			want := []appliance.DamagedRow{d.row}
			backup, report := h.backup(t)
			if !reflect.DeepEqual(report.Damaged, want) || report.DamagedRows != 1 || report.Damaged[0].Remedy() != d.remedy && !strings.HasPrefix(report.Damaged[0].Remedy(), d.remedy+",") {
				t.Errorf("the backup names %+v (%s), want %+v", report.Damaged, report.Damaged[0].Remedy(), want)
			}
			if log := h.bed.Log.String(); !strings.Contains(log, "a row is damaged, and is in the backup so") || !strings.Contains(log, "discard") {
				t.Error("the log does not name it")
			}
			if verified := must(h.bed.Appliance.VerifyBackup(ctx, bytes.NewReader(backup)))(t); !reflect.DeepEqual(verified.Damaged, want) {
				t.Errorf("verified: %+v", verified.Damaged)
			}
			earlier := earlierBackup(t, h.bed.DB, h.ring, h.installation, "")
			for name, b := range map[string][]byte{"today": backup, "earlier": earlier} {
				h.restores(t, name, b, d)
			}
			h.discards(t, h.bed, d)
			h.bed = restart(t, h.bed, h.client, h.options())
			h.bed.DestroyLeftovers(ctx)
			if got := keyObjects(t, h.bed.Device); got != objects {
				t.Errorf("there are %d key objects in the HSM, want %d", got, objects)
			}
			if _, after := h.backup(t); after.DamagedRows != 0 {
				t.Errorf("after the discard: %v", after.Damaged)
			}
		})
	}
}

func (h *handEdited) kinds() []struct{} { return make([]struct{}, 8) }

// restores restores a backup with the damaged row into another appliance on the same
// HSM: it is damaged there as it was, and all others serve.
func (h *handEdited) restores(t *testing.T, name string, backup []byte, d damagedCase) {
	t.Helper()
	o := h.options()
	ring := h.ring
	o.Token, o.Locked = h.bed.Device, fault.StateMissing
	b := appliancetest.Start(t, o)
	defer b.Stop()
	h.ring = ring
	report := must(b.Appliance.Restore(ctx, bytes.NewReader(backup), appliance.Restoration{Drill: true}))(t)
	if !report.Restored || !reflect.DeepEqual(report.Damaged, []appliance.DamagedRow{d.row}) {
		t.Errorf("%s: restored: %+v", name, report)
	}
	if d.row.Kind != "key store" && d.row.Kind != "credential" {
		k := *h.client
		k.Appliance = b.Appliance
		k.OK(appliancetest.Encrypt("bystander", "x"))
	}
	made := must(b.Appliance.Backup(ctx, ""))(t)
	defer made.Close()
	if !reflect.DeepEqual(made.Report.Damaged, report.Damaged) {
		t.Errorf("%s: a backup of what was restored names %+v", name, made.Report.Damaged)
	}
	h.discards(t, b, d)
}

// discards discards the row.
func (h *handEdited) discards(t *testing.T, b *appliancetest.Bed, d damagedCase) {
	t.Helper()
	a := b.Appliance
	if d.row.Kind == "key store" {
		less := d.target
		less.Keys = 2
		if _, err := a.Discard(ctx, less); fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), "holdfast keystore discard demo --keys 3") {
			t.Errorf("with another number of keys: %v", err)
		}
	}
	if err := a.CheckDiscard(ctx, d.target); err != nil {
		t.Error(err)
	}
	lost := must(a.Discard(ctx, d.target))(t)
	if lost.DamagedRow != d.row {
		t.Errorf("discarded: %+v", lost)
	}
	switch d.name {
	case "key":
		if !slices.Equal(lost.Versions, []uint32{1}) || !slices.Equal(lost.TokenObjects, []string{h.victim}) {
			t.Errorf("lost with the key: %+v", lost)
		}
	case "key store", "key store that does not unwrap":
		if lost.Keys != 3 || len(must(a.KeyStores(ctx))(t)) != 0 {
			t.Errorf("lost with the key store: %+v", lost)
		}
	}
	_, err := a.Discard(ctx, d.target)
	if code := fault.CodeOf(err); code != fault.NotFound && !(d.row.Kind == "setting" && code == fault.Conflict) {
		t.Errorf("once more: %v", err)
	}
	made := must(a.Backup(ctx, ""))(t)
	defer made.Close()
	if made.Report.DamagedRows != 0 {
		t.Errorf("damaged after the discard: %v", made.Report.Damaged)
	}
}

// TestDamagedKeySaysWhatToDo: each operation on a damaged key names the command that
// discards it, and none makes its row good.
func TestDamagedKeySaysWhatToDo(t *testing.T) {
	h := newHandEdited(t)
	h.exec(t, `UPDATE external_keys SET can_decrypt = 0 WHERE id IN ('victim', 'cached')`)
	a := h.bed.Appliance
	for what, err := range map[string]error{
		"show":     second(a.ShowKey(ctx, "demo", "victim")),
		"enable":   second(a.SetKeyEnabled(ctx, "demo", "victim", true)),
		"disable":  second(a.SetKeyEnabled(ctx, "demo", "victim", false)),
		"rotate":   second(a.RotateKey(ctx, "demo", "victim", nil)),
		"delete":   second(a.ScheduleDeletion(ctx, "demo", "victim", 7)),
		"cancel":   second(a.CancelDeletion(ctx, "demo", "victim")),
		"block":    second(a.Block(ctx, appliance.BlockTarget{KeyStore: "demo", KeyID: "victim"}, "x", "alice")),
		"unblock":  a.Unblock(ctx, appliance.BlockTarget{KeyStore: "demo", KeyID: "victim"}),
		"a grant?": a.CheckKeyEnabled(ctx, "demo", "victim", true),
		"version":  second(a.Discard(ctx, appliance.DiscardTarget{KeyStore: "demo", Key: "victim", Version: 1})),
	} {
		if fault.CodeOf(err) != fault.Tampered || !strings.Contains(err.Error(), "holdfast key discard demo victim") || strings.Contains(err.Error(), "restore it from a backup") {
			t.Errorf("%s: %v", what, err)
		}
	}
	lost := must(a.Discard(ctx, appliance.DiscardTarget{KeyStore: "demo", Key: "cached"}))(t)
	if !slices.Equal(lost.Versions, []uint32{1, 2}) || len(lost.Grants) != 1 || len(lost.TokenObjects) != 0 {
		t.Errorf("lost: %+v", lost)
	}
	h.exec(t, `UPDATE key_stores SET policy = 'x'`)
	h.bed = restart(t, h.bed, h.client, h.options())
	_, err := h.bed.Appliance.ShowKeyStore(ctx, "demo")
	if fault.CodeOf(err) != fault.Tampered || !strings.Contains(err.Error(), "holdfast keystore discard demo --keys N") {
		t.Errorf("a damaged key store: %v", err)
	}
}

// TestDamagedCurrentVersion: a version that encrypts is discarded once the key has
// another one; what it has encrypted is lost, and the rest serves.
func TestDamagedCurrentVersion(t *testing.T) {
	h := newHandEdited(t)
	h.exec(t, `UPDATE key_versions SET material = CAST(material || x'00' AS BLOB) WHERE key_id = 'victim'`)
	target := appliance.DiscardTarget{KeyStore: "demo", Key: "victim", Version: 1}
	a := h.bed.Appliance
	if _, err := a.Discard(ctx, target); fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), "holdfast key rotate demo victim") {
		t.Errorf("the current version: %v", err)
	}
	must(a.RotateKey(ctx, "demo", "victim", nil))(t)
	must(a.Discard(ctx, target))(t)
	sealed := h.client.OK(appliancetest.Encrypt("victim", "new")).Ciphertext
	h.client.OK(appliancetest.Decrypt("victim", sealed))
	if _, report := h.backup(t); report.DamagedRows != 0 || report.Versions != 4 {
		t.Errorf("afterwards: %+v", report)
	}
	if !encrypts(t, h.bed, h.victim) {
		t.Error("the object of the discarded version was destroyed")
	}
}

// TestDamagedPendingDeletion: a restore makes no damaged row good. One that was edited to
// be pending deletion stays as it is, and nothing is destroyed for it.
func TestDamagedPendingDeletion(t *testing.T) {
	p := newProduction(t, hsmtest.New(t), bothCustodies)
	db := must(sql.Open("sqlite", p.bed.DB))(t)
	defer db.Close()
	_ = must(db.ExecContext(ctx, `UPDATE external_keys SET state = 'pending_deletion', deletion_at = 1 WHERE id = 'kept'`))(t)
	b, _, report := p.copy(t, p.backup(t))
	if report.PendingDeletion != 2 || report.DamagedRows != 1 {
		t.Errorf("restored: %+v", report)
	}
	for range 3 {
		p.Pass(40 * day)
		b.Appliance.DeleteDueKeys(ctx)
		b.DestroyLeftovers(ctx)
	}
	_, err := b.Appliance.ShowKey(ctx, "demo", "kept")
	wantCode(t, err, fault.Tampered)
	var state string
	if err := must(sql.Open("sqlite", b.DB))(t).QueryRowContext(ctx, `SELECT state FROM external_keys WHERE id = 'kept'`).Scan(&state); err != nil || state != "pending_deletion" {
		t.Errorf("the row says %s: %v", state, err)
	}
	if got := keyObjects(t, b.Device); got != 2 {
		t.Errorf("there are %d key objects in the HSM, want 2", got)
	}
}

// TestManyDamagedRows: a report stays small, and counts all.
func TestManyDamagedRows(t *testing.T) {
	h := newHandEdited(t)
	ks := must(h.bed.Store.KeyStores(ctx))(t)[0]
	var keys []appliance.NewKey
	for i := range 1500 {
		id := fmt.Sprintf("many-%04d", i)
		v := &appliance.KeyVersion{KeyStore: ks.ID, KeyID: id, Version: 1, Custody: appliance.CustodyCached, Origin: appliance.OriginGenerated, CreatedAt: ks.CreatedAt, Material: []byte("none")}
		keys = append(keys, appliance.NewKey{Key: &appliance.ExternalKey{KeyStore: ks.ID, ID: id, Custody: appliance.CustodyCached, State: appliance.KeyEnabled, CurrentVersion: 1, CreatedAt: ks.CreatedAt, Seal: []byte("none")}, Version: v})
	}
	if err := h.bed.Store.CreateKeys(ctx, keys...); err != nil {
		t.Fatal(err)
	}
	if _, report := h.backup(t); report.DamagedRows != 3000 || len(report.Damaged) != 1000 || report.Keys != 1503 {
		t.Errorf("%d damaged rows, %d named, %d keys", report.DamagedRows, len(report.Damaged), report.Keys)
	}
}
