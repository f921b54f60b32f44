package storetest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/approval"
	"holdfast/appliance/fault"
	"holdfast/appliance/idempotency"
	"holdfast/appliance/identity"
)

// stale is the code of a change whose caller expected another row.
const stale = fault.Changed

// reads are the methods that change nothing, and whole those that are about all rows
// and have tests of their own.
var (
	reads = []string{"Installation", "MasterKeyNoted", "Setting", "KeyStores", "Key", "Keys", "CountKeys", "KeysDueForDeletion", "VersionsInToken", "HasKeysInToken", "TokenObjects",
		"Credentials", "Grants", "KeyStoreGrants", "Accounts", "Account", "AccountByName", "AccountByOIDC", "Invitations", "Invitation",
		"Session", "Sessions", "Spent", "Tokens", "Token", "Approval", "Approvals", "CountApprovals", "Nodes", "Leader", "Answer", "AnswersOf", "KeepsAnswers"}
	whole = []string{"Snapshot", "Restore", "Subscribe", "OpenState", "CloseState", "CheckState", "Damaged", "Past", "CatchUp", "Position", "Written", "Passed", "Origin", "KeepSnapshot", "Schemas", "RaiseSchema", "Changes", "Close"}
)

// kind is a kind of methods that change rows, with what is asked of each.
type kind struct {
	methods map[string]change
	test    func(t *testing.T, s Engine, c change)
}

// change is one method.
type change struct {
	// make makes what the method needs.
	make func(ctx context.Context, s Engine) error
	// do calls the method. Right is false for a caller that is mistaken: of an update, one
	// that expects another row; of a count, one that comes too late.
	do func(ctx context.Context, s Engine, right bool) error
	// look gives what can be seen of the change.
	look func(ctx context.Context, s Engine) (any, error)
	// again makes what an insert uses up, once more; nil if there is nothing such.
	again func(ctx context.Context, s Engine) error
	// without is the code where the row is not there; "" for no error.
	without fault.Code
}

var kinds = map[string]kind{
	"inserts": {inserts, testInsert},
	"updates": {updates, testUpdate},
	"counts":  {counts, testCount},
	"ends":    {ends, testEnd},
	"steps":   {steps, testStep},
	"notes":   {notes, testNote},
}

// testMethods: each method is in one table.
func testMethods(t *testing.T) {
	times := map[string]int{}
	for _, name := range append(slices.Clone(reads), whole...) {
		times[name]++
	}
	for _, k := range kinds {
		for name := range k.methods {
			times[name]++
		}
	}
	e := reflect.TypeFor[Engine]()
	for i := range e.NumMethod() {
		if name := e.Method(i).Name; times[name] != 1 {
			t.Errorf("%s is in %d tables of this package; put it into the one of its kind", name, times[name])
		}
		delete(times, e.Method(i).Name)
	}
	if len(times) > 0 {
		t.Errorf("there are no such methods: %v", slices.Sorted(maps.Keys(times)))
	}
}

func testChanges(t *testing.T, open func(t *testing.T) Engine) {
	for name, k := range kinds {
		for method, c := range k.methods {
			t.Run(name+"/"+method, func(t *testing.T) {
				t.Parallel()
				k.test(t, open(t), c)
			})
		}
	}
}

// testChangesOfState does the same with an open state: whatever a method changes is in
// its manifests.
func testChangesOfState(t *testing.T, open func(t *testing.T) Engine) {
	for name, k := range kinds {
		for method, c := range k.methods {
			t.Run(name+"/"+method, func(t *testing.T) {
				t.Parallel()
				s := open(t)
				k.test(t, s, c)
				matches(t, s)
			})
		}
	}
}

// uncounted are the methods that the number of changes need not have, and why.
var uncounted = map[string]string{
	"FinishAnswer":  "the request is in it as done",
	"NoteMasterKey": "a node of a fleet has it in a file of its own, and nobody is shown it",
}

// testCounted: each change is in the number of changes, but for what is counted as the appliance
// serves.
func testCounted(t *testing.T, open func(t *testing.T) Engine) {
	for name, k := range kinds {
		for method, c := range k.methods {
			t.Run(name+"/"+method, func(t *testing.T) {
				t.Parallel()
				s, ctx := open(t), t.Context()
				if c.make != nil {
					Must(t, c.make(ctx, s))
				}
				before := s.Changes()
				_, _ = s.KeyStores(ctx)
				if now := s.Changes(); now != before {
					t.Errorf("who reads changes something: %d, then %d", before, now)
				}
				Must(t, c.do(ctx, s, true))
				if counted := s.Changes() > before; counted == (name == "counts") && uncounted[method] == "" {
					t.Errorf("it is in the number of changes: %t", counted)
				}
			})
		}
	}
}

// seen gives what can be seen of a change; its error, if there is nothing.
func (c change) seen(t *testing.T, s Engine) any {
	t.Helper()
	v, err := c.look(t.Context(), s)
	if err != nil {
		return fault.CodeOf(err)
	}
	return v
}

// testInsert: what is there is not made once more.
func testInsert(t *testing.T, s Engine, c change) {
	ctx := t.Context()
	Must(t, c.make(ctx, s))
	before := c.seen(t, s)
	Must(t, c.do(ctx, s, true))
	after := c.seen(t, s)
	if reflect.DeepEqual(before, after) {
		t.Fatalf("nothing was made: %v", after)
	}
	if c.again != nil {
		Must(t, c.again(ctx, s))
	}
	if err := c.do(ctx, s, true); fault.CodeOf(err) != c.without {
		t.Errorf("once more: %v, want %s", err, c.without)
	}
	Equal(t, c.seen(t, s), after)
}

// testUpdate: an update states the row that it expects. With another one it is refused,
// changes nothing and is not announced. Of many at once that expect the same row, one is
// made.
func testUpdate(t *testing.T, s Engine, c change) {
	ctx := t.Context()
	if err := c.do(ctx, s, true); fault.CodeOf(err) != c.without {
		t.Errorf("without a row: %v, want %s", err, c.without)
	}
	Must(t, c.make(ctx, s))
	before := c.seen(t, s)
	quiet := true
	s.Subscribe(func(appliance.Change) {
		if quiet {
			t.Error("a refused change was announced")
		}
	})
	err := c.do(ctx, s, false)
	Wants(t, err, stale, "another operation")
	Equal(t, c.seen(t, s), before)
	quiet = false
	results := make(chan error, stepCallers)
	for range stepCallers {
		go func() { results <- c.do(ctx, s, true) }()
	}
	made := 0
	for range stepCallers {
		switch err := <-results; fault.CodeOf(err) {
		case "":
			made++
		case stale, fault.NotFound:
		default:
			t.Error(err)
		}
	}
	if made != 1 && c.without != "" {
		t.Errorf("of %d at once that expect the same row, %d were made", stepCallers, made)
	}
	if after := c.seen(t, s); reflect.DeepEqual(before, after) {
		t.Fatalf("nothing changed: %v", after)
	}
}

// testCount: what only counts up does not go back.
func testCount(t *testing.T, s Engine, c change) {
	ctx := t.Context()
	if err := c.do(ctx, s, true); fault.CodeOf(err) != c.without {
		t.Errorf("without a row: %v, want %s", err, c.without)
	}
	Must(t, c.make(ctx, s))
	before := c.seen(t, s)
	Must(t, c.do(ctx, s, true))
	after := c.seen(t, s)
	if reflect.DeepEqual(before, after) {
		t.Fatalf("nothing was counted: %v", after)
	}
	Must(t, c.do(ctx, s, false))
	Equal(t, c.seen(t, s), after)
}

// testEnd: what ends by its ID ends whatever its row says.
func testEnd(t *testing.T, s Engine, c change) {
	ctx := t.Context()
	if err := c.do(ctx, s, true); fault.CodeOf(err) != c.without {
		t.Errorf("without a row: %v, want %s", err, c.without)
	}
	Must(t, c.make(ctx, s))
	before := c.seen(t, s)
	Must(t, c.do(ctx, s, false))
	if after := c.seen(t, s); reflect.DeepEqual(before, after) {
		t.Fatalf("it has not ended: %v", after)
	}
}

// stepCallers is how many callers make a step at once.
const stepCallers = 8

// testStep: what reads, decides and writes does so in one step. Nothing of what many do at
// once is lost, and a function that refuses changes nothing.
func testStep(t *testing.T, s Engine, c change) {
	ctx := t.Context()
	if err := c.do(ctx, s, true); fault.CodeOf(err) != c.without {
		t.Errorf("without a row: %v, want %s", err, c.without)
	}
	Must(t, c.make(ctx, s))
	Equal(t, c.seen(t, s), 0)
	if err := c.do(ctx, s, false); !errors.Is(err, errRefused) {
		t.Errorf("a function that refuses: %v", err)
	}
	Equal(t, c.seen(t, s), 0)
	var wg sync.WaitGroup
	for range stepCallers {
		wg.Go(func() {
			if err := c.do(ctx, s, true); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	Equal(t, c.seen(t, s), stepCallers)
}

// errRefused is the error of functions that refuse a step.
var errRefused = fault.Errorf(fault.Invalid, "refused by the test")

// testNote: a note that says the same is written once more, without an error.
func testNote(t *testing.T, s Engine, c change) {
	ctx := t.Context()
	Must(t, c.do(ctx, s, true))
	after := c.seen(t, s)
	Must(t, c.do(ctx, s, true))
	Equal(t, c.seen(t, s), after)
}

// sealed gives the seal that a caller expects: of the row, or of another one.
func sealed(seal []byte, right bool) []byte {
	if right {
		return seal
	}
	return append(bytes.Clone(seal), 'x')
}

var (
	store       = KeyStore(1)
	oneKey      = NewKey(store, "a")
	oneGrant    = Grant(store, 1, "a")
	oneInstall  = &appliance.Installation{ID: ID(1), WrappedStateKey: []byte("wrapped"), CreatedAt: At(1), BlockSeal: []byte("block"), Incarnation: "one", IncarnationSeal: []byte("incarnation")}
	oneRequest  = &approval.Request{ID: ID(7), Operation: "o", Method: "POST", Path: "/p", Body: []byte("{}"), UserID: "u", RequestedBy: "ann", CreatedAt: At(1), ExpiresAt: At(90), State: approval.Pending, Seal: []byte("pending")}
	oneInvite   = &identity.Invitation{ID: ID(5), Digest: []byte("invited"), Name: "ann", Role: identity.RoleKeyAdministrator, CreatedAt: At(1), ExpiresAt: At(59), Seal: []byte("invitation")}
	oneUser     = &identity.Account{ID: ID(6), Name: "ann", Role: identity.RoleKeyAdministrator, CreatedAt: At(1), Seal: []byte("user")}
	oneSession  = &identity.Session{ID: ID(8), UserID: oneUser.ID, UserName: oneUser.Name, Digest: []byte("session"), CreatedAt: At(1), LastSeenAt: At(1), ExpiresAt: At(59), ProvenAt: At(0), Seal: []byte("session")}
	oneToken    = &identity.Token{ID: ID(9), Name: "t", Role: identity.RoleKeyAdministrator, Digest: []byte("token"), CreatedAt: At(1), ExpiresAt: At(59), Seal: []byte("token")}
	oneAnswer   = &idempotency.Row{ID: ID(10), Owner: "user u", Request: []byte("request"), Run: "run", Node: "n", Begun: At(1), Expires: At(59)}
	oneSetting  = &appliance.SettingRow{Name: "s", Value: "v", Seal: []byte("setting")}
	newerThanAt = func(right bool) time.Time { return At(map[bool]int{true: 30, false: 20}[right]) }
)

func nothing(context.Context, Engine) error { return nil }

func makeStore(ctx context.Context, s Engine) error { return s.CreateKeyStore(ctx, store) }

func makeKey(ctx context.Context, s Engine) error {
	return errors.Join(makeStore(ctx, s), s.CreateKeys(ctx, oneKey))
}

func makeCredential(ctx context.Context, s Engine) error {
	return errors.Join(makeStore(ctx, s), s.CreateCredential(ctx, Credential(store, 1)))
}

func makeUser(ctx context.Context, s Engine) error {
	return errors.Join(s.CreateInvitation(ctx, oneInvite), s.CreateAccount(ctx, oneUser, oneInvite.Digest, nil))
}

func makeSession(ctx context.Context, s Engine) error {
	return errors.Join(makeUser(ctx, s), s.CreateSession(ctx, oneSession))
}

func makeAnswer(ctx context.Context, s Engine) error { return s.CreateAnswer(ctx, oneAnswer) }

func lookAnswer(ctx context.Context, s Engine) (any, error) { return s.Answer(ctx, oneAnswer.ID) }

func lookStores(ctx context.Context, s Engine) (any, error) { return s.KeyStores(ctx) }

func lookKey(ctx context.Context, s Engine) (any, error) { return s.Key(ctx, store.ID, oneKey.Key.ID) }

func lookAccess(ctx context.Context, s Engine) (any, error) {
	credentials, err := s.Credentials(ctx, store.ID)
	grants, err2 := s.Grants(ctx, store.ID)
	return []any{credentials, grants}, errors.Join(err, err2)
}

func lookInstallation(ctx context.Context, s Engine) (any, error) { return s.Installation(ctx) }

func lookUsers(ctx context.Context, s Engine) (any, error) { return s.Accounts(ctx) }

func lookSessions(ctx context.Context, s Engine) (any, error) { return s.Sessions(ctx, "") }

func lookRequests(ctx context.Context, s Engine) (any, error) { return s.Approvals(ctx, 10) }

// inserts make a row. Without is the code when it is there.
var inserts = map[string]change{
	"CreateAnswer": {make: nothing, do: func(ctx context.Context, s Engine, _ bool) error { return makeAnswer(ctx, s) }, look: lookAnswer, without: fault.Exists},
	"FinishAnswer": {make: makeAnswer, do: func(ctx context.Context, s Engine, _ bool) error {
		r := *oneAnswer
		r.Answer = []byte("answer")
		return s.FinishAnswer(ctx, &r)
	}, look: lookAnswer, without: fault.Exists},
	"CreateInstallation": {make: nothing, do: func(ctx context.Context, s Engine, _ bool) error { return s.CreateInstallation(ctx, oneInstall) }, look: lookInstallation, without: fault.Exists},
	"CreateKeyStore":     {make: nothing, do: func(ctx context.Context, s Engine, _ bool) error { return makeStore(ctx, s) }, look: lookStores, without: fault.Exists},
	"CreateKeys":         {make: makeStore, do: func(ctx context.Context, s Engine, _ bool) error { return s.CreateKeys(ctx, oneKey) }, look: lookKey, without: fault.Exists},
	"CreateCredential": {make: makeStore, do: func(ctx context.Context, s Engine, _ bool) error {
		return s.CreateCredential(ctx, Credential(store, 1))
	}, look: lookAccess, without: fault.Exists},
	"CreateGrants": {make: makeKey, do: func(ctx context.Context, s Engine, _ bool) error { return s.CreateGrants(ctx, oneGrant) }, look: lookAccess, without: fault.Exists},
	"CreateInvitation": {make: nothing, do: func(ctx context.Context, s Engine, _ bool) error { return s.CreateInvitation(ctx, oneInvite) },
		look: func(ctx context.Context, s Engine) (any, error) { return s.Invitations(ctx) }, without: fault.Exists},
	"CreateAccount": {make: func(ctx context.Context, s Engine) error { return s.CreateInvitation(ctx, oneInvite) },
		do: func(ctx context.Context, s Engine, _ bool) error {
			return s.CreateAccount(ctx, oneUser, oneInvite.Digest, nil)
		}, look: lookUsers, without: fault.Exists,
		again: func(ctx context.Context, s Engine) error { return s.CreateInvitation(ctx, oneInvite) }},
	"CreateSession": {make: makeUser, do: func(ctx context.Context, s Engine, _ bool) error { return s.CreateSession(ctx, oneSession) }, look: lookSessions, without: fault.Exists},
	"Spend": {make: nothing, do: func(ctx context.Context, s Engine, _ bool) error {
		return s.Spend(ctx, identity.Spent{ID: "session 1", At: At(1), ExpiresAt: At(59)})
	}, look: func(ctx context.Context, s Engine) (any, error) { return s.Spent(ctx, "session 1") }, without: fault.Exists},
	"CreateToken": {make: nothing, do: func(ctx context.Context, s Engine, _ bool) error { return s.CreateToken(ctx, oneToken) },
		look: func(ctx context.Context, s Engine) (any, error) { return s.Tokens(ctx) }, without: fault.Exists},
	"CreateNode":     {make: nothing, do: func(ctx context.Context, s Engine, _ bool) error { return s.CreateNode(ctx, oneNode) }, look: lookNodes, without: fault.Exists},
	"CreateApproval": {make: nothing, do: func(ctx context.Context, s Engine, _ bool) error { return s.CreateApproval(ctx, oneRequest) }, look: lookRequests, without: fault.Exists},
}

// updates state the row that they expect.
var updates = map[string]change{
	"UpgradeInstallation": {make: func(ctx context.Context, s Engine) error { return s.CreateInstallation(ctx, oneInstall) },
		do: func(ctx context.Context, s Engine, right bool) error {
			was, in := *oneInstall, *oneInstall
			was.WrappedStateKey = sealed(was.WrappedStateKey, right)
			in.WrappedStateKey = []byte("wrapped again")
			return s.UpgradeInstallation(ctx, &in, &was)
		}, look: lookInstallation, without: fault.NotFound},
	"SetBlock": {make: func(ctx context.Context, s Engine) error { return s.CreateInstallation(ctx, oneInstall) },
		do: func(ctx context.Context, s Engine, right bool) error {
			return s.SetBlock(ctx, appliance.Block{Reason: "r", Since: At(2)}, []byte("blocked"), sealed(oneInstall.BlockSeal, right))
		}, look: lookInstallation, without: fault.NotFound},
	"SetIncarnation": {make: func(ctx context.Context, s Engine) error { return s.CreateInstallation(ctx, oneInstall) },
		do: func(ctx context.Context, s Engine, right bool) error {
			return s.SetIncarnation(ctx, "another", []byte("another"), sealed(oneInstall.IncarnationSeal, right))
		}, look: lookInstallation, without: fault.NotFound},
	"SetSetting": {make: func(ctx context.Context, s Engine) error { return s.SetSetting(ctx, oneSetting, nil) },
		do: func(ctx context.Context, s Engine, right bool) error {
			was := *oneSetting
			was.Seal = sealed(was.Seal, right)
			return s.SetSetting(ctx, &appliance.SettingRow{Name: "s", Value: "w", Seal: []byte("another")}, &was)
		}, look: func(ctx context.Context, s Engine) (any, error) { return s.Setting(ctx, "s") }, without: fault.NotFound},
	"UpdateNode": {make: func(ctx context.Context, s Engine) error { return s.CreateNode(ctx, oneNode) }, do: func(ctx context.Context, s Engine, right bool) error {
		n := *oneNode
		n.State, n.Seal = appliance.NodeDrained, []byte("another")
		return s.UpdateNode(ctx, &n, sealed(oneNode.Seal, right))
	}, look: lookNodes, without: fault.NotFound},
	"DeleteNode": {make: func(ctx context.Context, s Engine) error { return s.CreateNode(ctx, oneNode) }, do: func(ctx context.Context, s Engine, right bool) error {
		return s.DeleteNode(ctx, oneNode.ID, sealed(oneNode.Seal, right))
	}, look: lookNodes, without: fault.NotFound},
	"SetLeader": {make: func(ctx context.Context, s Engine) error { return s.SetLeader(ctx, oneLeader, nil) }, do: func(ctx context.Context, s Engine, right bool) error {
		was := *oneLeader
		was.Seal = sealed(was.Seal, right)
		return s.SetLeader(ctx, &appliance.LeaderRow{Node: ID(8), Token: 2, Seal: []byte("another")}, &was)
	}, look: func(ctx context.Context, s Engine) (any, error) { return s.Leader(ctx) }, without: fault.NotFound},
	"UpdateKeyStore": {make: makeStore, do: func(ctx context.Context, s Engine, right bool) error {
		ks := *store
		ks.RequestsPerSecond, ks.Seal = 99, []byte("another")
		return s.UpdateKeyStore(ctx, &ks, sealed(store.Seal, right))
	}, look: lookStores, without: fault.NotFound},
	"DeleteKeyStore": {make: makeStore, do: func(ctx context.Context, s Engine, right bool) error {
		return s.DeleteKeyStore(ctx, store.ID, sealed(store.Seal, right))
	}, look: lookStores, without: fault.NotFound},
	"DiscardKeyStore": {make: makeKey, do: func(ctx context.Context, s Engine, right bool) error {
		n, err := s.CountKeys(ctx, store.ID)
		return errors.Join(err, s.DiscardKeyStore(ctx, store.ID, sealed(store.Seal, right), n))
	}, look: lookStores, without: fault.NotFound},
	"UpdateKey": {make: makeKey, do: func(ctx context.Context, s Engine, right bool) error {
		k := *oneKey.Key
		k.State, k.Seal = appliance.KeyDisabled, []byte("another")
		return s.UpdateKey(ctx, &k, sealed(oneKey.Key.Seal, right))
	}, look: lookKey, without: fault.NotFound},
	"AddKeyVersion": {make: makeKey, do: func(ctx context.Context, s Engine, right bool) error {
		k := *oneKey.Key
		k.CurrentVersion, k.Seal = 2, []byte("another")
		return s.AddKeyVersion(ctx, &k, Version(store, k.ID, 2), sealed(oneKey.Key.Seal, right), "")
	}, look: lookKey, without: fault.NotFound},
	"DeleteKey": {make: makeKey, do: func(ctx context.Context, s Engine, right bool) error {
		return s.DeleteKey(ctx, store.ID, oneKey.Key.ID, sealed(oneKey.Key.Seal, right), nil)
	}, look: lookKey, without: fault.NotFound},
	"DiscardKey": {make: makeKey, do: func(ctx context.Context, s Engine, right bool) error {
		return s.DiscardKey(ctx, store.ID, oneKey.Key.ID, sealed(oneKey.Key.Seal, right))
	}, look: lookKey, without: fault.NotFound},
	"DiscardKeyVersion": {make: makeKey, do: func(ctx context.Context, s Engine, right bool) error {
		v := *oneKey.Version
		v.Material = sealed(v.Material, right)
		return s.DiscardKeyVersion(ctx, &v)
	}, look: lookKey, without: fault.NotFound},
	"StrikeTokenObject": {make: func(ctx context.Context, s Engine) error { return s.NoteTokenObjects(ctx, TokenObject("o")) },
		do: func(ctx context.Context, s Engine, right bool) error {
			return s.StrikeTokenObject(ctx, "o", sealed(TokenObject("o").Seal, right))
		}, look: func(ctx context.Context, s Engine) (any, error) { return s.TokenObjects(ctx) }},
	"UpdateCredential": {make: makeCredential, do: func(ctx context.Context, s Engine, right bool) error {
		c := Credential(store, 1)
		was := c.Secret
		c.Active, c.Secret = false, []byte("another")
		return s.UpdateCredential(ctx, c, sealed(was, right))
	}, look: lookAccess, without: fault.NotFound},
	"DeleteCredential": {make: makeCredential, do: func(ctx context.Context, s Engine, right bool) error {
		c := Credential(store, 1)
		return s.DeleteCredential(ctx, store.ID, c.AccessKeyID, sealed(c.Secret, right))
	}, look: lookAccess, without: fault.NotFound},
	"DeleteGrant": {make: func(ctx context.Context, s Engine) error {
		return errors.Join(makeKey(ctx, s), s.CreateGrants(ctx, oneGrant))
	}, do: func(ctx context.Context, s Engine, right bool) error {
		return s.DeleteGrant(ctx, store.ID, oneGrant.ID, sealed(oneGrant.Seal, right))
	}, look: lookAccess, without: fault.NotFound},
	"DeleteAccount": {make: makeUser, do: func(ctx context.Context, s Engine, right bool) error {
		was, err := s.Account(ctx, oneUser.ID)
		if err != nil {
			return err
		}
		was.Sealed = sealed(was.Sealed, right)
		return s.DeleteAccount(ctx, was, nil)
	}, look: lookUsers, without: fault.NotFound},
	"DecideApproval": {make: func(ctx context.Context, s Engine) error { return s.CreateApproval(ctx, oneRequest) },
		do: func(ctx context.Context, s Engine, right bool) error {
			was, r := *oneRequest, *oneRequest
			was.Seal = sealed(was.Seal, right)
			r.State, r.DecidedBy, r.DecidedAt, r.Seal = approval.Done, "bob", At(3), []byte("done")
			return s.DecideApproval(ctx, &r, &was)
		}, look: lookRequests, without: fault.NotFound},
}

// counts only go up. A caller that comes too late has the lower number.
var counts = map[string]change{
	"ReserveEncryptions": {make: makeKey, do: func(ctx context.Context, s Engine, right bool) error {
		n := uint64(0)
		if right {
			n = 5
		}
		_, err := s.ReserveEncryptions(ctx, store.ID, oneKey.Key.ID, 1, n)
		return err
	}, look: lookKey, without: fault.NotFound},
	"RecordCredentialUse": {make: makeCredential, do: func(ctx context.Context, s Engine, right bool) error {
		return s.RecordCredentialUse(ctx, map[string]time.Time{Credential(store, 1).AccessKeyID: newerThanAt(right)})
	}, look: lookAccess},
	"TouchSession": {make: makeSession, do: func(ctx context.Context, s Engine, right bool) error {
		return s.TouchSession(ctx, oneSession.ID, newerThanAt(right))
	}, look: lookSessions},
	"TouchToken": {make: func(ctx context.Context, s Engine) error { return s.CreateToken(ctx, oneToken) }, do: func(ctx context.Context, s Engine, right bool) error {
		return s.TouchToken(ctx, oneToken.ID, newerThanAt(right))
	}, look: func(ctx context.Context, s Engine) (any, error) { return s.Tokens(ctx) }},
}

// ends remove a row by an ID that is never used again, whatever the row says: taking a
// right away must not fail because the row changed.
var ends = map[string]change{
	"DeleteInvitation": {make: func(ctx context.Context, s Engine) error { return s.CreateInvitation(ctx, oneInvite) },
		do:   func(ctx context.Context, s Engine, _ bool) error { return s.DeleteInvitation(ctx, oneInvite.ID) },
		look: func(ctx context.Context, s Engine) (any, error) { return s.Invitations(ctx) }, without: fault.NotFound},
	"DeleteSession": {make: makeSession, do: func(ctx context.Context, s Engine, _ bool) error { return s.DeleteSession(ctx, oneSession.ID) }, look: lookSessions, without: fault.NotFound},
	"DeleteAnswer": {make: makeAnswer, do: func(ctx context.Context, s Engine, _ bool) error {
		return s.DeleteAnswer(ctx, oneAnswer.ID, oneAnswer.Run)
	}, look: lookAnswer},
	"ForgetAnswers": {make: makeAnswer, do: func(ctx context.Context, s Engine, _ bool) error {
		_, err := s.ForgetAnswers(ctx, oneAnswer.Expires)
		return err
	}, look: lookAnswer},
	"DeleteSessions": {make: makeSession, do: func(ctx context.Context, s Engine, _ bool) error {
		_, err := s.DeleteSessions(ctx, oneUser.ID)
		return err
	}, look: lookSessions},
}

// steps read rows, have a function change them, and write them, in one step. Each counts
// in its row.
var steps = map[string]change{
	"UpdateAccount": {make: makeUser, do: func(ctx context.Context, s Engine, right bool) error {
		_, err := s.UpdateAccount(ctx, oneUser.ID, func(a *identity.Account) error { a.Failures++; return refusedUnless(right) }, nil)
		return err
	}, look: func(ctx context.Context, s Engine) (any, error) {
		a, err := s.Account(ctx, oneUser.ID)
		return a.Failures, err
	}, without: fault.NotFound},
	"UpdateSession": {make: makeSession, do: func(ctx context.Context, s Engine, right bool) error {
		return s.UpdateSession(ctx, oneSession.ID, func(x *identity.Session) error {
			x.ProvenAt, x.Seal = x.ProvenAt.Add(time.Second), append(x.Seal, 1)
			return refusedUnless(right)
		})
	}, look: func(ctx context.Context, s Engine) (any, error) {
		x, err := s.Session(ctx, oneSession.Digest)
		return int(x.ProvenAt.Sub(oneSession.ProvenAt) / time.Second), err
	}, without: fault.NotFound},
	"UpdateToken": {make: func(ctx context.Context, s Engine) error { return s.CreateToken(ctx, oneToken) }, do: func(ctx context.Context, s Engine, right bool) error {
		_, err := s.UpdateToken(ctx, oneToken.ID, func(x *identity.Token) error { x.Seal = append(x.Seal, 1); return refusedUnless(right) })
		return err
	}, look: func(ctx context.Context, s Engine) (any, error) {
		x, err := s.Token(ctx, oneToken.Digest)
		return len(x.Seal) - len(oneToken.Seal), err
	}, without: fault.NotFound},
	"SealRows": {make: func(ctx context.Context, s Engine) error {
		return errors.Join(makeUser(ctx, s), s.CreateToken(ctx, oneToken))
	},
		do: func(ctx context.Context, s Engine, right bool) error {
			return s.SealRows(ctx, func(a *identity.Account) error { a.Seal = append(a.Seal, 1); return nil },
				func(*identity.Invitation) error { return nil },
				func(x *identity.Token) error { x.Seal = append(x.Seal, 1); return refusedUnless(right) })
		}, look: func(ctx context.Context, s Engine) (any, error) {
			a, err := s.Account(ctx, oneUser.ID)
			x, err2 := s.Token(ctx, oneToken.Digest)
			if n := len(a.Seal) - len(oneUser.Seal); n != len(x.Seal)-len(oneToken.Seal) {
				return "half of it", nil
			}
			return len(a.Seal) - len(oneUser.Seal), errors.Join(err, err2)
		}},
	"SealApprovals": {make: func(ctx context.Context, s Engine) error { return s.CreateApproval(ctx, oneRequest) }, do: func(ctx context.Context, s Engine, right bool) error {
		return s.SealApprovals(ctx, func(r *approval.Request) error { r.Seal = append(r.Seal, 1); return refusedUnless(right) })
	}, look: func(ctx context.Context, s Engine) (any, error) {
		r, err := s.Approval(ctx, oneRequest.ID)
		return len(r.Seal) - len(oneRequest.Seal), err
	}},
}

func refusedUnless(right bool) error {
	if !right {
		return errRefused
	}
	return nil
}

// notes may be written once more.
var notes = map[string]change{
	"NoteMasterKey": {do: func(ctx context.Context, s Engine, _ bool) error { return s.NoteMasterKey(ctx, At(1)) },
		look: func(ctx context.Context, s Engine) (any, error) { return s.MasterKeyNoted(ctx) }},
	"NoteTokenObjects": {do: func(ctx context.Context, s Engine, _ bool) error { return s.NoteTokenObjects(ctx, TokenObject("o")) },
		look: func(ctx context.Context, s Engine) (any, error) { return s.TokenObjects(ctx) }},
}

// testMachineMethods: each method has a test in RunMachine.
func testMachineMethods(t *testing.T) {
	tested := []string{"BootSteps", "PolicySeal", "RaisePolicyVersion", "RaiseRecovery", "RecordBootStep", "SealPolicyVersion"}
	m := reflect.TypeFor[Machine]()
	for i := range m.NumMethod() {
		if name := m.Method(i).Name; !slices.Contains(tested, name) {
			t.Errorf("%s has no test in this package", name)
		}
	}
}
