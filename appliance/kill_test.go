package appliance_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
	"holdfast/appliance/fault"
	"holdfast/appliance/keyring"
	"holdfast/appliance/sqlite"
)

// fileAnchor plays the counter of a TPM in a file, which outlives the process.
type fileAnchor string

func (a fileAnchor) Name() string { return "file" }

func (a fileAnchor) Count(context.Context) (uint64, error) {
	text, err := os.ReadFile(string(a))
	if errors.Is(err, os.ErrNotExist) {
		return 0, fault.Errorf(fault.NotFound, "there is no counter")
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(string(text), 10, 64)
}

func (a fileAnchor) Raise(ctx context.Context, to uint64) error {
	count, err := a.Count(ctx)
	if err != nil || to > count+1 {
		return fmt.Errorf("from %d to %d: %w", count, to, err)
	}
	return a.write(max(count, to))
}

func (a fileAnchor) Make(ctx context.Context) (uint64, error) { return 1, a.write(1) }

func (a fileAnchor) write(count uint64) error {
	next := string(a) + ".next"
	if err := os.WriteFile(next, strconv.AppendUint(nil, count, 10), 0o600); err != nil {
		return err
	}
	return os.Rename(next, string(a))
}

// fileHeads is an anchor of heads in a file, which keeps what it is told at once.
type fileHeads string

func (f fileHeads) Name() string { return "file" }

func (f fileHeads) Seen(context.Context) (seen appliance.SeenHead, err error) {
	text, err := os.ReadFile(string(f))
	if errors.Is(err, os.ErrNotExist) {
		return seen, fault.Errorf(fault.NotFound, "it was told none")
	}
	return seen, errors.Join(err, json.Unmarshal(text, &seen))
}

func (f fileHeads) Tell(h appliance.Head) {
	text, err := json.Marshal(appliance.SeenHead{Head: h, Since: time.Now()})
	if err == nil {
		err = errors.Join(os.WriteFile(string(f)+".next", text, 0o600), os.Rename(string(f)+".next", string(f)))
	}
	if err != nil {
		fmt.Println("failed", err)
	}
}

// countedChange is an appliance with such an anchor.
type countedChange struct {
	*appliance.Appliance
	store *sqlite.DB
	token appliancetest.Token
}

// openAnchored opens one over a folder with the database, the anchor, and a token. A real token
// would do as well, but SoftHSM2 itself does not outlive a kill while somebody signs in.
func openAnchored(dir string, device *appliancetest.Memory) (*countedChange, error) {
	w := &countedChange{}
	var err error
	if w.store, err = sqlite.Open(ctx, filepath.Join(dir, "holdfast.db"), sqlite.Options{}); err != nil {
		return nil, err
	}
	anchor := fileAnchor(filepath.Join(dir, "anchor"))
	w.Appliance = appliance.New(appliance.Options{Store: w.store, Anchor: func() appliance.Anchor { return anchor },
		HeadAnchors: []appliance.HeadAnchor{fileHeads(filepath.Join(dir, "head"))}})
	if w.token, err = device.Open(ctx, appliancetest.Opening{Log: slog.New(slog.DiscardHandler), MakingMasterKey: func() error { return w.NoteMasterKey(ctx) }}); err != nil {
		return nil, err
	}
	return w, w.Unlock(ctx, keyring.New(w.token), []appliance.HSM{keyring.Watched(w.token)})
}

func (w *countedChange) close() error {
	w.Lock()
	return errors.Join(w.token.Close(), w.store.Close())
}

const killEnv = "HOLDFAST_TEST_KILL"

// steps count what was done of each kind of change. A change has the number that was counted
// before plus one.
type steps map[string]int

// found reads from an appliance how far each kind of change has got.
func found(w *countedChange) (steps, error) {
	stores, err := w.KeyStores(ctx)
	if err != nil {
		return nil, err
	}
	at := steps{"quota": stores[0].RequestsPerSecond - 1000000}
	grants, err := w.Grants(ctx, "demo")
	if err != nil {
		return nil, err
	}
	for _, g := range grants {
		if n, ok := strings.CutPrefix(g.Principal, "arn:aws:iam::123456789012:role/"); ok {
			number, _ := strconv.Atoi(n)
			at["grant"] = max(at["grant"], number)
			at["grants"]++
		}
	}
	blocked, err := w.ShowKey(ctx, "demo", "blocked")
	if err != nil {
		return nil, err
	}
	at["blocked"], _ = strconv.Atoi(blocked.Blocked.Reason)
	for page := (appliance.Page{Limit: 1000}); ; {
		list, err := w.Keys(ctx, "demo", page, appliance.StandingDisabled)
		if err != nil {
			return nil, err
		}
		if len(list) == 0 {
			break
		}
		at["disabled"] += len(list)
		page.After = list[len(list)-1].ID
	}
	at["keys"], err = w.store.CountKeys(ctx, stores[0].ID)
	if err != nil {
		return nil, err
	}
	used, err := w.ShowKey(ctx, "demo", "used")
	if err != nil {
		return nil, err
	}
	at["encryptions"] = int(used.Versions[0].Encryptions)
	return at, nil
}

// loaded starts, says how far it finds each kind of change, and goes on with all of them at
// once, until it is killed.
func loaded(dir string) error {
	began := time.Now()
	dumped, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		return err
	}
	device, err := appliancetest.NewMemoryOf(dumped)
	if err != nil {
		return err
	}
	w, err := openAnchored(dir, device)
	if err != nil {
		return err
	}
	at, err := found(w)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(what string, n int) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println("did", what, n)
	}
	text, err := json.Marshal(at)
	if err != nil {
		return err
	}
	fmt.Println("found", string(text))
	fmt.Println("did start", time.Since(began).Milliseconds())
	failed := make(chan error, 16)
	forever := func(what string, n int, do func(n int) error) {
		go func() {
			for n++; ; n++ {
				if err := do(n); err != nil {
					failed <- fmt.Errorf("%s %d: %w", what, n, err)
					return
				}
				say(what, n)
			}
		}()
	}
	forever("quota", at["quota"], func(n int) error { return errorOf(w.SetQuota(ctx, "demo", 1000000+n)) })
	forever("blocked", at["blocked"], func(n int) error {
		return errorOf(w.Block(ctx, appliance.BlockTarget{KeyStore: "demo", KeyID: "blocked"}, fmt.Sprint(n), "alice"))
	})
	disabled := at["disabled"]
	forever("keys", at["keys"], func(n int) error {
		id := fmt.Sprint("k", n)
		if _, err := w.CreateKey(ctx, "demo", appliance.NewExternalKey{ID: id, Custody: appliance.CustodyCached, Usage: appliance.Usage{Encrypt: true, Decrypt: true}}); err != nil {
			return err
		}
		if _, err := w.SetKeyEnabled(ctx, "demo", id, false); err != nil {
			return err
		}
		disabled++
		say("disabled", disabled)
		return nil
	})
	last := ""
	grants, err := w.Grants(ctx, "demo")
	if err != nil {
		return err
	}
	for _, g := range grants {
		switch n, ok := strings.CutPrefix(g.Principal, "arn:aws:iam::123456789012:role/"); {
		case ok && n == fmt.Sprint(at["grant"]):
			last = g.ID
		case ok:
			if err := w.RemoveGrant(ctx, "demo", g.ID); err != nil {
				return err
			}
		}
	}
	forever("grant", at["grant"], func(n int) error {
		g, err := w.AddGrant(ctx, "demo", appliance.Grant{Principal: fmt.Sprint("arn:aws:iam::123456789012:role/", n), Operations: []appliance.Operation{appliance.OpDecrypt}})
		if err == nil && last != "" {
			err = w.RemoveGrant(ctx, "demo", last)
		}
		if err == nil {
			last = g.ID
		}
		return err
	})
	for range 3 {
		forever("encryptions", 0, func(int) error {
			e, err := w.Endpoint("/demo")
			if err != nil {
				return err
			}
			s, err := appliancetest.Session(e, doomedAccessKeyID, doomedSecret, "used")
			if err != nil {
				return err
			}
			return errorOf(s.Encrypt(ctx, []byte("x"), nil, nil))
		})
	}
	return <-failed
}

// TestKillAtAnyMoment kills an appliance 100 times at random moments, with requests and
// changes of administrators under way. The next start finds all that was answered, takes
// nothing of it for tampering, and takes seconds.
func TestKillAtAnyMoment(t *testing.T) {
	if dir := os.Getenv(killEnv); dir != "" {
		fmt.Println("failed", loaded(dir))
		os.Exit(1)
	}
	dir, device := t.TempDir(), appliancetest.NewMemory()
	w := must(openAnchored(dir, device))(t)
	must(w.CreateKeyStore(ctx, appliance.KeyStore{Name: "demo", URIPathPrefix: "/demo", RequestsPerSecond: 1000000}))(t)
	if _, _, err := w.CreateCredential(ctx, "demo", appliance.NewCredential{AccessKeyID: doomedAccessKeyID, SecretAccessKey: doomedSecret}); err != nil {
		t.Fatal(err)
	}
	must(w.AddGrant(ctx, "demo", appliance.Grant{Principal: appliancetest.Principal, Operations: []appliance.Operation{appliance.OpEncrypt}}))(t)
	for _, id := range []string{"blocked", "used"} {
		must(w.CreateKey(ctx, "demo", appliance.NewExternalKey{ID: id, Custody: appliance.CustodyCached, Usage: appliance.Usage{Encrypt: true, Decrypt: true}}))(t)
	}
	did := must(found(w))(t)
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "token"), must(device.Dump())(t), 0o600); err != nil {
		t.Fatal(err)
	}
	slowest, changes := 0, 0
	const rounds = 100 / oneIn
	for round := range rounds {
		after := time.Duration(rand.IntN(150)) * time.Millisecond
		did, slowest, changes = killed(t, dir, did, round%5 == 0, after, slowest, changes)
		if t.Failed() {
			t.Fatalf("round %d, killed after %s", round, after)
		}
	}
	t.Logf("%d kills, %d changes answered; the slowest start took %d ms; at the end %v", rounds, changes, slowest, did)
	if slowest > 10000 {
		t.Errorf("a start took %d ms", slowest)
	}
}

// killed runs a child and kills it after a time, from its beginning or from when it serves.
// It holds what the child finds against what was answered before.
func killed(t *testing.T, dir string, did steps, starting bool, after time.Duration, slowest, changes int) (steps, int, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), killEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out := must(cmd.StdoutPipe())(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if starting {
		time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		what, rest, _ := strings.Cut(lines.Text(), " ")
		switch what {
		case "found":
			there := steps{}
			if err := json.Unmarshal([]byte(rest), &there); err != nil {
				t.Fatal(err)
			}
			did = did.holds(t, there)
			if !starting {
				time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
			}
		case "did":
			kind, number, _ := strings.Cut(rest, " ")
			n := must(strconv.Atoi(number))(t)
			switch kind {
			case "start":
				slowest = max(slowest, n)
			case "encryptions":
				did[kind]++
			default:
				did[kind] = n
				changes++
			}
		default:
			t.Errorf("the child says: %s", lines.Text())
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the child ended by itself")
	}
	return did, slowest, changes
}

// holds says whether what is there is what was answered, or one change more of each kind, and
// gives what to go on from.
func (did steps) holds(t *testing.T, there steps) steps {
	t.Helper()
	for _, kind := range []string{"quota", "grant", "keys", "disabled", "blocked"} {
		if n := there[kind]; n < did[kind] || n > did[kind]+1 {
			t.Errorf("%s: %d was answered, and %d is there", kind, did[kind], n)
		}
	}
	if there["grants"] > 2 {
		t.Errorf("%d grants are there that were to follow each other", there["grants"])
	}
	if there["encryptions"] < did["encryptions"] {
		t.Errorf("%d encryptions were answered, and %d are counted", did["encryptions"], there["encryptions"])
	}
	return there
}
