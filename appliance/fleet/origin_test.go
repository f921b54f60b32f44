package fleet_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/changelogtest"
)

// TestEditedOrigin: whatever somebody writes on a node's disk about which log it follows, and
// however the database withholds changes, a block that is in effect is in effect on that node.
func TestEditedOrigin(t *testing.T) {
	for name, edit := range map[string]string{
		"the first digest":             `UPDATE taken_changes SET digest = zeroblob(32) WHERE number = 1`,
		"no first digest":              `DELETE FROM taken_changes WHERE number = 1`,
		"the ID of the log":            `UPDATE settings SET value = replace(hex(zeroblob(32)), '00', 'ab') WHERE name = 'log'`,
		"no ID of the log":             `DELETE FROM settings WHERE name = 'log'`,
		"the log by the first digest":  `UPDATE settings SET value = (SELECT lower(hex(digest)) FROM taken_changes WHERE number = 1) WHERE name = 'log'`,
		"the seal of the ID of a log":  `UPDATE settings SET seal = x'00' WHERE name = 'log'`,
		"the first digest and the log": `UPDATE taken_changes SET digest = zeroblob(32) WHERE number = 1; UPDATE settings SET value = replace(hex(zeroblob(32)), '00', '00') WHERE name = 'log'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait for T
			editedOrigin(t, edit)
		})
	}
}

func editedOrigin(t *testing.T, edit string) {
	const grace = time.Second
	w := &wires{nodes: map[string]*member{}, cut: map[[2]string]bool{}, lying: map[string]bool{}}
	token, log := appliancetest.NewMemory(), changelogtest.NewMemory(nil)
	var all []*member
	var client *appliancetest.Client
	for i := range 2 {
		m := &member{ChangeLog: log.Peer(), t: t, id: fmt.Sprint("n", i+1), wires: w, grace: grace}
		w.mu.Lock()
		w.nodes[m.id] = m
		w.mu.Unlock()
		m.startBed(token)
		t.Cleanup(func() { m.Bed.Stop(); m.work.Wait() })
		all = append(all, m)
		until(t, m.id, func() bool { return m.Fresh() == nil })
		if i == 0 {
			client = m.NewKeyStore(t, "prod", "/prod", appliancetest.Principal)
			m.NewKey(t, "prod", "k", "encrypt,decrypt", appliance.CustodyCached)
		}
	}
	a, b := all[0], all[1]
	serves := func(m *member) bool {
		c := *client
		c.Appliance = m.Appliance
		_, err := c.Call(appliancetest.Encrypt("k", "plain"))
		return err == nil
	}
	until(t, "b does not serve", func() bool { return serves(b) })
	dir := b.Dir
	b.Bed.Stop()
	b.work.Wait()
	editRows(t, filepath.Join(dir, "fleet.db"), edit)
	appliancetest.Start(t, appliancetest.Options{Dir: dir, Token: token, Appliance: appliance.Options{ChangeLog: b, Fleet: b}, Made: func(x *appliancetest.Bed) { b.Bed = x }})
	until(t, "b does not serve again", func() bool { return serves(b) })
	w.mu.Lock()
	w.lying["n2"] = true
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 5*grace)
	defer cancel()
	if _, err := a.Appliance.Block(ctx, appliance.BlockTarget{KeyStore: "prod", KeyID: "k"}, "x", "alice"); err != nil {
		t.Fatal(err)
	}
	if s := a.Settle(ctx); len(s.Late) == 0 && serves(b) {
		t.Errorf("the block is in effect, %+v, and b serves", s)
	}
	until(t, "b serves a key that is blocked", func() bool { return !serves(b) })
}

// editRows changes a file of rows as somebody does who has the disk.
func editRows(t *testing.T, file, edit string) {
	t.Helper()
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(edit); err != nil {
		t.Fatal(err)
	}
}
