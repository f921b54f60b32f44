package appliance_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/keyring"
	"holdfast/appliance/sqlite"
	"holdfast/hsm"
	"holdfast/hsm/hsmtest"
)

// The child of TestKillAtEachStep is told by its environment what to do.
const doomedEnv = "HOLDFAST_TEST_DOOMED"

type doomed struct {
	Dir, Module, TokenLabel, PIN string
	// Steps is after how many changes it is killed, Round which child it is.
	Steps, Round int
}

// death counts the changes to database and token, and kills the process when
// the last one is done and nobody knows it yet.
type death struct{ left int }

func (d *death) step() {
	if d.left--; d.left == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

type doomedStore struct {
	appliance.Store
	death *death
}

func (s doomedStore) CreateKeys(ctx context.Context, keys ...appliance.NewKey) error {
	defer s.death.step()
	return s.Store.CreateKeys(ctx, keys...)
}

func (s doomedStore) UpdateKey(ctx context.Context, k *appliance.ExternalKey, was []byte) error {
	defer s.death.step()
	return s.Store.UpdateKey(ctx, k, was)
}

func (s doomedStore) AddKeyVersion(ctx context.Context, k *appliance.ExternalKey, v *appliance.KeyVersion, was []byte, object string) error {
	defer s.death.step()
	return s.Store.AddKeyVersion(ctx, k, v, was, object)
}

func (s doomedStore) DeleteKey(ctx context.Context, keyStore, id string, was []byte, objects []*appliance.TokenObject) error {
	defer s.death.step()
	return s.Store.DeleteKey(ctx, keyStore, id, was, objects)
}

func (s doomedStore) ReserveEncryptions(ctx context.Context, keyStore, id string, version uint32, n uint64) (uint64, error) {
	defer s.death.step()
	return s.Store.ReserveEncryptions(ctx, keyStore, id, version, n)
}

func (s doomedStore) NoteTokenObjects(ctx context.Context, notes ...*appliance.TokenObject) error {
	defer s.death.step()
	return s.Store.NoteTokenObjects(ctx, notes...)
}

func (s doomedStore) StrikeTokenObject(ctx context.Context, label string, was []byte) error {
	defer s.death.step()
	return s.Store.StrikeTokenObject(ctx, label, was)
}

func (s doomedStore) SetIncarnation(ctx context.Context, incarnation string, seal, was []byte) error {
	defer s.death.step()
	return s.Store.SetIncarnation(ctx, incarnation, seal, was)
}

type doomedToken struct {
	*hsm.Token
	death *death
}

func (t doomedToken) GenerateKey(ctx context.Context, label string) error {
	defer t.death.step()
	return t.Token.GenerateKey(ctx, label)
}

func (t doomedToken) ImportKey(ctx context.Context, label string, key []byte) error {
	defer t.death.step()
	return t.Token.ImportKey(ctx, label, key)
}

func (t doomedToken) DestroyKey(ctx context.Context, label string) error {
	defer t.death.step()
	return t.Token.DestroyKey(ctx, label)
}

func (t doomedToken) CreateDataObject(ctx context.Context, o hsm.DataObject, reach hsm.Reach) error {
	defer t.death.step()
	return t.Token.CreateDataObject(ctx, o, reach)
}

func (t doomedToken) DestroyDataObject(ctx context.Context, o hsm.DataObject) error {
	defer t.death.step()
	return t.Token.DestroyDataObject(ctx, o)
}

// whole is an appliance with its parts.
type whole struct {
	*appliance.Appliance
	store *sqlite.DB
	token *hsm.Token
}

func (w *whole) close() error {
	w.Lock()
	return errors.Join(w.token.Close(), w.store.Close())
}

func open(d doomed, now func() time.Time) (*whole, error) {
	w := &whole{}
	var err error
	if w.store, err = sqlite.Open(ctx, filepath.Join(d.Dir, "holdfast.db"), sqlite.Options{}); err != nil {
		return nil, err
	}
	death := &death{left: d.Steps}
	w.Appliance = appliance.New(appliance.Options{Store: doomedStore{w.store, death}, Now: now, Lease: 1000 * time.Hour})
	if w.token, err = hsm.Open(ctx, hsm.Config{Launcher: hsmtest.Launcher(), Module: d.Module, TokenLabel: d.TokenLabel, PIN: []byte(d.PIN), MakingMasterKey: func() error { return w.NoteMasterKey(ctx) }}); err != nil {
		return nil, err
	}
	return w, w.Unlock(ctx, keyring.New(doomedToken{w.token, death}), []appliance.HSM{keyring.Watched(w.token)})
}

// The credential of the key store.
const (
	doomedAccessKeyID = "AKIAIOSFODNN7EXAMPLE"
	doomedSecret      = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY123"
)

// session opens a session for a key.
func (w *whole) session(id string) (*appliance.Session, error) {
	e, err := w.Endpoint("/demo")
	if err != nil {
		return nil, err
	}
	return appliancetest.Session(e, doomedAccessKeyID, doomedSecret, id)
}

// said is what the child has been answered.
type said struct {
	What, Key string
	Sealed    *appliance.Ciphertext `json:",omitempty"`
}

// live makes, uses, rotates and deletes keys, and says on stdout what it has
// been answered.
func (d doomed) live() error {
	now := time.Now()
	w, err := open(d, func() time.Time { return now })
	if err != nil {
		return err
	}
	say := func(s said) error { return json.NewEncoder(os.Stdout).Encode(s) }
	encrypt := func(id string) error {
		k, err := w.session(id)
		if err != nil {
			return err
		}
		sealed, err := k.Encrypt(ctx, []byte(id), []byte("aad"), nil)
		if err != nil {
			return err
		}
		return say(said{"encrypted", id, sealed})
	}
	for _, custody := range []appliance.Custody{appliance.CustodyHSM, appliance.CustodyCached} {
		id := fmt.Sprintf("%s-%d", custody, d.Round)
		want := appliance.NewExternalKey{ID: id, Custody: custody, Usage: appliance.Usage{Encrypt: true, Decrypt: true}}
		if _, err := w.CreateKey(ctx, "demo", want); err != nil {
			return err
		}
		if err := errors.Join(say(said{What: "created", Key: id}), encrypt(id), encrypt(id)); err != nil {
			return err
		}
		if _, err := w.RotateKey(ctx, "demo", id, []byte("imported material, of 32 bytes !")); err != nil {
			return err
		}
		if err := errors.Join(say(said{What: "rotated", Key: id}), encrypt(id)); err != nil {
			return err
		}
	}
	id := fmt.Sprintf("%s-%d", appliance.CustodyHSM, d.Round)
	if _, err := w.ScheduleDeletion(ctx, "demo", id, 7); err != nil {
		return err
	}
	if err := say(said{What: "scheduled", Key: id}); err != nil {
		return err
	}
	now = now.AddDate(0, 0, 8)
	w.DeleteDueKeys(ctx)
	now = now.Add(appliance.DestroyWait)
	w.DestroyLeftovers(ctx)
	return errors.Join(say(said{What: "deleted", Key: id}), w.close())
}

// TestKillAtEachStep kills an appliance after its first change to the database
// or the token, the next one after its second, and so on over the same state,
// until one gets to its end. After each, what was answered for is there, what
// was under way is there wholly or not at all, and no key object is left in the
// token that no key owns. (TestKillUnderLoad of cmd/holdfast-dev kills at any
// moment.)
func TestKillAtEachStep(t *testing.T) {
	if text := os.Getenv(doomedEnv); text != "" {
		var d doomed
		if err := json.Unmarshal([]byte(text), &d); err != nil {
			t.Fatal(err)
		}
		if err := d.live(); err != nil {
			t.Fatal(err)
		}
		return
	}
	cfg := hsmtest.New(t)
	d := doomed{Dir: t.TempDir(), Module: cfg.Module, TokenLabel: cfg.TokenLabel, PIN: string(cfg.PIN)}
	w := must(open(d, nil))(t)
	must(w.CreateKeyStore(ctx, appliance.KeyStore{Name: "demo", URIPathPrefix: "/demo"}))(t)
	if _, _, err := w.CreateCredential(ctx, "demo", appliance.NewCredential{AccessKeyID: doomedAccessKeyID, SecretAccessKey: doomedSecret}); err != nil {
		t.Fatal(err)
	}
	must(w.AddGrant(ctx, "demo", appliance.Grant{Principal: appliancetest.Principal, Operations: []appliance.Operation{appliance.OpEncrypt, appliance.OpDecrypt}}))(t)
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	a := answers{sealed: map[string][]*appliance.Ciphertext{}, done: map[string]bool{}, counts: map[string]uint64{}}
	for killed := true; killed; {
		d.Steps++
		d.Round++
		killed = a.listen(t, d)
		a.check(t, d)
		if t.Failed() {
			t.Fatalf("killed after change %d", d.Steps)
		}
	}
	if d.Steps < 15 || !a.done["deleted hsm-"+fmt.Sprint(d.Round)] {
		t.Errorf("the child got to its end after %d changes: too few", d.Steps)
	}
}

// answers are those of all children.
type answers struct {
	done   map[string]bool // by what and key
	sealed map[string][]*appliance.Ciphertext
	counts map[string]uint64 // by key and version, as of the check before
}

// listen runs a child and says whether it was killed.
func (a *answers) listen(t *testing.T, d doomed) bool {
	t.Helper()
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), doomedEnv+"="+string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var other []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var s said
		if json.Unmarshal(lines.Bytes(), &s) != nil {
			other = append(other, lines.Text())
			continue
		}
		a.done[s.What+" "+s.Key] = true
		if s.Sealed != nil {
			a.sealed[s.Key] = append(a.sealed[s.Key], s.Sealed)
		}
	}
	if err := cmd.Wait(); err == nil {
		return false
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended by itself: %v\n%s", cmd.ProcessState, strings.Join(other, "\n"))
	}
	return true
}

// check opens the state that the child left behind.
func (a *answers) check(t *testing.T, d doomed) {
	t.Helper()
	d.Steps = 0
	now := time.Now()
	w := must(open(d, func() time.Time { return now }))(t) // which checks that the database is whole
	defer func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	}()
	w.DestroyLeftovers(ctx)
	now = now.Add(appliance.DestroyWait)
	w.DestroyLeftovers(ctx)
	if left := must(w.store.TokenObjects(ctx))(t); len(left) != 0 {
		t.Errorf("to be destroyed, and not: %+v", left)
	}
	keys := map[string]*appliance.StoredKey{}
	inToken := 0
	for _, listed := range must(w.Keys(ctx, "demo", appliance.Page{Limit: 1000}, ""))(t) {
		k := must(w.ShowKey(ctx, "demo", listed.ID))(t)
		keys[k.ID] = k
		if len(k.Versions) != int(k.CurrentVersion) {
			t.Errorf("%s: version %d is current of %d", k.ID, k.CurrentVersion, len(k.Versions))
		}
		if k.Custody == appliance.CustodyHSM {
			inToken += len(k.Versions)
		}
		if a.done["rotated "+k.ID] && k.CurrentVersion != 2 {
			t.Errorf("%s: the rotation is gone", k.ID)
		}
		if a.done["deleted "+k.ID] {
			t.Errorf("%s: the deletion is undone", k.ID)
		}
	}
	if got := keyObjects(t, appliancetest.PKCS11{Module: d.Module, TokenLabel: d.TokenLabel, PIN: []byte(d.PIN)}); got != inToken {
		t.Errorf("there are %d key objects in the token for %d versions of keys", got, inToken)
	}
	for what := range a.done {
		if id, ok := strings.CutPrefix(what, "created "); ok && keys[id] == nil && !a.done["scheduled "+id] {
			t.Errorf("%s is gone", id)
		}
	}
	for id, k := range keys {
		if k.State == appliance.KeyPendingDeletion {
			must(w.CancelDeletion(ctx, "demo", id))(t)
			must(w.SetKeyEnabled(ctx, "demo", id, true))(t)
		} else if a.done["scheduled "+id] && !a.done["seen "+id] {
			t.Errorf("%s: the scheduled deletion is gone", id)
		}
		a.done["seen "+id] = true
		done := map[uint32]uint64{}
		session := func() *appliance.Session { return must(w.session(id))(t) }
		for _, c := range a.sealed[id] {
			done[c.KeyVersion()]++
			if got, err := session().Decrypt(ctx, c, []byte("aad")); err != nil || string(got) != id {
				t.Errorf("%s: decrypted %q, %v", id, got, err)
			}
		}
		for _, v := range k.Versions {
			name := fmt.Sprintf("%s version %d", id, v.Version)
			if v.Encryptions < done[v.Version] || v.Encryptions < a.counts[name] {
				t.Errorf("%s: %d encryptions are counted; %d were answered, %d counted before", name, v.Encryptions, done[v.Version], a.counts[name])
			}
			a.counts[name] = v.Encryptions
		}
		// It still does its work.
		a.sealed[id] = append(a.sealed[id], must(session().Encrypt(ctx, []byte(id), []byte("aad"), nil))(t))
	}
}

// keyObjects counts the token's objects of external keys.
func keyObjects(t *testing.T, device appliancetest.Device) int {
	t.Helper()
	return len(keyLabels(t, device))
}

// externalKey matches the label of the object of an external key.
var externalKey = regexp.MustCompile(`^holdfast-[0-9a-f]{8}-`)

// keyLabels gives the labels of the objects of external keys in a real token, by hand.
func keyLabels(t *testing.T, device appliancetest.Device) (labels []string) {
	t.Helper()
	p, s := hsmtest.ByHand(t, hsm.Config(device.(appliancetest.PKCS11)))
	defer func() { _ = p.CloseSession(s) }()
	if err := p.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY)}); err != nil {
		t.Fatal(err)
	}
	found, _, err := p.FindObjects(s, 1000)
	if err := errors.Join(err, p.FindObjectsFinal(s)); err != nil {
		t.Fatal(err)
	}
	for _, o := range found {
		label := must(p.GetAttributeValue(s, o, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, nil)}))(t)
		if externalKey.Match(label[0].Value) {
			labels = append(labels, string(label[0].Value))
		}
	}
	return labels
}
