package daemon_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/approval"
	"holdfast/appliance/audit"
	"holdfast/appliance/identity"
	"holdfast/web/operation"
)

// pair are two administrators of one appliance, each in a window of their own.
type pair struct {
	*running
	t          *testing.T
	alice, bob *admin
	// credential and grant are the IDs of those that are damaged.
	credential, grant string

	mu    sync.Mutex
	ahead time.Duration // of the daemon's clock
}

func (p *pair) now() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Add(p.ahead)
}

func (p *pair) pass(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ahead += d
}

// asked is an operation as it is asked for in the console.
type asked struct {
	// page has the form, and button is its button: the operation's words if empty.
	page, button string
	// fields are what is filled in, and secret what the one who asked gives again when it is done.
	fields, secret []string
	// before and after are what the page of the request has of how it is and how it would be.
	before, after []string
	// ready makes what the operation is about.
	ready func()
	// check is the button that has a file checked, and file that file: the operation's form is on the
	// page that says what the file would do.
	check, file string
	// done is what alice sees when it is done.
	done string
}

// relyOnNothing are operations that a person confirms, and that are about nothing that could be in
// use.
var relyOnNothing = map[string]bool{"confirmTime": true, "revokePolicies": true, "installPolicy": true, "installLaunch": true, "discardSetting": true}

// prove gives a proof of presence where the page asks for one.
func (p *pair) prove(a *admin) (proved bool) {
	p.t.Helper()
	if !strings.HasPrefix(a.Path(), "/prove") {
		return false
	}
	a.Has("Prove that it is you")
	a.Fill("Go on", "password", sentence, "code", a.codes[0])
	a.codes = a.codes[1:]
	return true
}

// ask has alice ask for an operation, and gives the request for approval.
func (p *pair) ask(route *operation.Route, x asked) operation.ApprovalDetail {
	p.t.Helper()
	if x.ready != nil {
		x.ready()
	}
	button := x.button
	if button == "" {
		button = route.Words
	}
	p.alice.Open(x.page)
	if x.file != "" {
		p.alice.Fill(x.check, "file", x.file)
		p.prove(p.alice)
		p.alice.Has("Would be made", "SHA-256 of the file")
	}
	why := []string{"why", "alice wants " + route.ID}
	fields := slices.Clone(x.fields)
	if p.alice.Value(`String(document.querySelector('form[action="/do/`+route.ID+`"] [name="why"]') !== null)`) == "true" {
		fields = append(fields, why...)
	}
	p.alice.Fill(button, fields...)
	if strings.HasPrefix(p.alice.Path(), "/confirm/") { // with what relies on it, and the name to type
		if p.alice.Value(`String(document.querySelector('form[action^="/confirm/"] [name="why"]') !== null)`) != "true" {
			why = nil
		}
		p.alice.Confirm(why...)
	} else if route.Guards().Confirmed && route.ConfirmedIf == "" {
		p.t.Errorf("%s: alice was not asked for the name", route.ID)
	}
	p.prove(p.alice)
	p.alice.Has("It waits for the approval of another person")
	var waits operation.List[operation.ApprovalDetail]
	p.ok("GET", "approvals?state=pending", nil, &waits)
	if len(waits.Items) != 1 || waits.Items[0].Operation != route.ID || waits.Items[0].Reason != "alice wants "+route.ID {
		p.t.Fatalf("%s: there waits %+v", route.ID, waits.Items)
	}
	p.alice.Open("/approvals/" + waits.Items[0].ID)
	p.alice.Has("You cannot approve this", "you asked for this yourself", "Take back")
	return waits.Items[0]
}

// approve has bob approve what he sees.
func (p *pair) approve(route *operation.Route, a operation.ApprovalDetail, x asked) {
	p.t.Helper()
	p.bob.Open("/approvals/" + a.ID)
	p.bob.Has(append([]string{route.Words, "Waits", "alice", "alice wants " + route.ID, "What changes", "Now", "Then", "As the API has it", a.Method, "Expires"}, slices.Concat(x.before, x.after)...)...)
	if route.Guards().Confirmed && !relyOnNothing[route.ID] {
		p.bob.Has("What relies on it")
		p.bob.HasNot("What relies on it is not known", "Who has used it is not known") // of what is damaged, more is not known
	}
	if folded := p.bob.Value(`String(document.querySelectorAll("main details:not([open])").length)`); folded != "0" {
		p.t.Errorf("%s: %s parts of the page are folded away", route.ID, folded)
	}
	p.bob.Fill("Approve", "reason", "bob has looked at "+route.ID)
}

// finish has alice do what waits for her after the approval.
func (p *pair) finish(route *operation.Route, a operation.ApprovalDetail, x asked) {
	p.t.Helper()
	if !route.ShowsSecret() && !a.TakesSecret && route.Mutates() {
		p.bob.Has("Approved and done")
		return
	}
	p.bob.Has("alice does it now")
	p.bob.HasNot("Perform approved operation")
	p.alice.Open("/approvals/" + a.ID)
	if !route.Mutates() {
		link := `a[href^="/download/"]`
		if _, file := p.alice.Download(link); len(file) < 1000 {
			p.t.Errorf("%s: %d bytes", route.ID, len(file))
		}
		p.bob.Open("/download/backup?approval=" + a.ID)
		p.bob.Has("nobody can decide it any more")
		p.alice.Open("/approvals/" + a.ID)
		p.alice.HasNot("Download the backup")
		return
	}
	p.alice.Fill("Perform approved operation", x.secret...)
	p.prove(p.alice)
	if route.ShowsSecret() {
		p.alice.Has("once")
	}
	if title := p.alice.Value("document.title"); !strings.Contains(title, x.done) {
		p.t.Errorf("%s: alice is on the page %q, and not on %q", route.ID, title, x.done)
	}
}

// recordedBoth: the audit log has who asked, who approved, and why each did.
func (p *pair) recordedBoth(route *operation.Route, id string) {
	p.t.Helper()
	var found operation.Records
	p.ok("GET", "audit/records?kind=admin&limit=20", nil, &found)
	i := slices.IndexFunc(found.Records, func(r audit.NodeRecord) bool { return r.Approval == id && r.Operation == route.Operation() })
	if i < 0 {
		p.t.Errorf("%s: the audit log does not have it", route.ID)
		return
	}
	r := found.Records[i]
	if r.Result != audit.Allowed || r.Actor != "alice" || r.ApprovedBy != "bob" || r.Reason != "alice wants "+route.ID || r.ApprovalWhy != "bob has looked at "+route.ID {
		p.t.Errorf("%s is recorded as %s by %s (%s), approved by %s (%s): %s", route.ID, r.Result, r.Actor, r.Reason, r.ApprovedBy, r.ApprovalWhy, r.Detail)
	}
	var a operation.ApprovalDetail
	if p.ok("GET", "approvals/"+id, nil, &a); a.State != approval.Done || a.DecidedBy != "bob" {
		p.t.Errorf("%s: the request is %s, decided by %s: %s", route.ID, a.State, a.DecidedBy, a.Outcome)
	}
}

// newPair starts an appliance that is a copy of its installation, with a row of each kind
// damaged, and has alice and bob sign in: so that there is something to do for each operation.
func newPair(t *testing.T) *pair {
	t.Helper()
	s := newOwnedSite(t)
	s.unnamed = true
	s.launchVersion(1)
	s.alone = theirMachine
	p := &pair{t: t}
	s.now = p.now
	p.running = s.start()
	p.alice = p.setUp("alice")
	enrol := func(name string) *admin {
		t.Helper()
		var i operation.CreatedInvitation
		p.ok("POST", "invitations", operation.NewInvitation{Name: name, Role: identity.RoleAdministrator}, &i)
		b := p.alice.Another()
		b.Open("/invitation/" + i.Token)
		return enrolled(t, b, name)
	}
	p.bob = enrol("bob")
	enrol("carol")
	for _, ks := range []string{"walk", "empty", "damaged"} {
		p.ok("POST", "keystores", operation.NewKeyStore{Name: ks, URIPathPrefix: "/" + ks}, nil)
	}
	for _, id := range []string{"blocked", "off", "on", "turned", "doomed", "damaged"} {
		p.ok("POST", "keystores/walk/keys", operation.NewKey{ID: id, Usage: appliance.Usage{Encrypt: true, Decrypt: true}, Custody: appliance.CustodyCached}, nil)
	}
	var broken operation.CreatedCredential
	p.ok("POST", "keystores/walk/credentials", operation.NewCredential{}, &broken)
	var grant appliance.Grant
	p.ok("POST", "keystores/walk/grants", operation.NewGrant{Principal: "arn:aws:iam::123456789012:role/damaged", Operations: []appliance.Operation{appliance.OpEncrypt}}, &grant)
	p.credential, p.grant = broken.AccessKeyID, grant.ID
	p.ok("POST", "keystores/walk/policy", operation.NewPolicy{Cedar: "// one\n// two\nforbid (principal, action, resource);"}, nil)
	p.stop()
	putBack := s.copyOf()
	s.start().stop() // another start of the owner
	putBack()
	s.edit(`UPDATE key_stores SET requests_per_second = 9 WHERE name = 'damaged'; UPDATE external_keys SET can_encrypt = 0 WHERE id = 'damaged'; UPDATE settings SET value = value || ' ' WHERE name = 'bootstrap';
		UPDATE credentials SET active = 0 WHERE access_key_id = '` + p.credential + `'; UPDATE grants SET principal = '*' WHERE id = '` + p.grant + `'`)
	before := len(s.log.String())
	p.running = s.begin()
	s.logged(before, `state=locked .*code=E_STATE`)
	p.alice.signIn(p.running)
	window := p.alice.Another()
	code := p.bob.codes[0]
	p.bob.Browser, p.bob.codes = window, p.bob.codes[1:]
	p.bob.Open("/signin")
	p.bob.Fill("Sign in with the password", "name", "bob", "password", sentence, "code", code)
	p.acceptState("/state")
	s.logged(before, `msg=serving `)
	return p
}

// acceptState has both accept the state as it is.
func (p *pair) acceptState(page string) {
	p.t.Helper()
	for _, a := range []*admin{p.alice, p.bob} {
		a.Open(page)
		a.Fill("Accept state", "reason", "the walk has made it so")
		p.prove(a)
	}
	p.bob.Has("The state is accepted as it is")
}

// all are the operations that can need a second person, as alice asks for them, by their IDs.
func (p *pair) all() map[string]asked {
	var users operation.List[*identity.User]
	p.ok("GET", "users?name=carol", nil, &users)
	carol := "/users/" + users.Items[0].ID
	var c operation.CreatedCredential
	p.ok("POST", "keystores/walk/credentials", operation.NewCredential{}, &c)
	const keys, grants, credentials = "/keystores/walk/keys/", "/keystores/walk/grants", "/keystores/walk/credentials"
	material := strings.Repeat("ab", 32)
	const keyFile, grantFile = "id,usage,custody\nbulk-1,encrypt decrypt,cached\nbulk-2,decrypt,cached\n", "principal,operations\narn:aws:iam::123456789012:role/bulk-1,Encrypt\narn:aws:iam::123456789012:role/bulk-2,Decrypt\n"
	root := func(method, path string, body any) func() {
		return func() { p.t.Helper(); p.ok(method, path, body, nil) }
	}
	return map[string]asked{
		"block":                {page: keys + "blocked", button: "Block key", fields: []string{"reason", "an incident"}, after: []string{"an incident", "blocked"}},
		"unblock":              {page: keys + "blocked", button: "Unblock key", before: []string{"blocked"}},
		"setQuota":             {page: "/keystores/walk", fields: []string{"requests_per_second", "4711"}, before: []string{"requests per second"}, after: []string{"4711"}},
		"deleteKeyStore":       {page: "/keystores/empty", before: []string{"/empty"}, after: []string{"removed"}},
		"createKey":            {page: "/keystores/walk/keys", fields: []string{"id", "made", "material", material}, secret: []string{"material", material}, after: []string{"made", "given by the one who asked"}},
		"createKeys":           {page: "/keystores/walk/keys", check: "Check file of keys", file: keyFile, secret: []string{"file", keyFile}, done: "All 2 keys of the file are there", after: []string{"bulk-1", "given by the one who asked"}},
		"createGrants":         {page: grants, check: "Check file of grants", file: grantFile, secret: []string{"file", grantFile}, done: "All 2 grants of the file are there", after: []string{"role/bulk-1", "given by the one who asked"}},
		"enableKey":            {page: keys + "off", before: []string{"disabled"}, ready: root("POST", "keystores/walk/keys/off/disable", nil)},
		"disableKey":           {page: keys + "on", before: []string{"enabled"}},
		"rotateKey":            {page: keys + "turned", before: []string{"turned"}},
		"scheduleKeyDeletion":  {page: keys + "doomed", fields: []string{"days", "11"}, after: []string{"11"}},
		"createGrant":          {page: grants, fields: []string{"principal", "arn:aws:iam::123456789012:role/walk"}, after: []string{"arn:aws:iam::123456789012:role/walk"}},
		"removeGrant":          {page: grants, button: "Remove grant grant to arn:aws:iam::123456789012:role/walk", before: []string{"arn:aws:iam::123456789012:role/walk"}, after: []string{"removed"}},
		"setPolicy":            {page: grants, fields: []string{"cedar", "// one\n// three\nforbid (principal, action, resource);"}, before: []string{"− // two", "  forbid"}, after: []string{"+ // three"}},
		"createCredential":     {page: credentials},
		"activateCredential":   {page: credentials, button: "Activate credential " + c.AccessKeyID, before: []string{c.AccessKeyID}, ready: root("POST", "keystores/walk/credentials/"+c.AccessKeyID+"/deactivate", nil)},
		"deactivateCredential": {page: credentials, button: "Deactivate credential " + c.AccessKeyID, before: []string{c.AccessKeyID}},
		"deleteCredential":     {page: credentials, button: "Delete credential " + c.AccessKeyID, before: []string{c.AccessKeyID}, after: []string{"removed"}},
		"discardKeyStore":      {page: "/state", fields: []string{"keystore", "damaged", "keys", "0"}, before: []string{"damaged"}},
		"discardKey":           {page: "/state", fields: []string{"keystore", "walk", "key", "damaged"}, before: []string{"walk", "damaged"}},
		"discardSetting":       {page: "/state", fields: []string{"setting", "bootstrap"}, before: []string{"bootstrap"}},
		"confirmTime":          {page: "/state", fields: []string{"reason", "the watch on the wall"}, after: []string{"the watch on the wall"}, ready: p.runAhead},
		"revokePolicies":       {page: "/settings", fields: []string{"below", "1"}, after: []string{"1"}},
		"installPolicy":        {page: "/settings", fields: []string{"policy", p.s.next(2, nil).Policy}, before: []string{"It must have booted"}, after: []string{"version 2"}},
		"installLaunch": {page: "/settings", fields: []string{"document", string(p.s.launchDocument(p.s.launch.Module, p.s.launch.TokenLabel, 2, ownerKey(1)))},
			after: []string{"hsm.token_label is"}},
		"backup":               {page: "/settings"},
		"takeOverInstallation": {page: "/state", fields: []string{"reason", "the other is gone"}, after: []string{"the other is gone"}},
		"setRole":              {page: carol, fields: []string{"role", "auditor"}, before: []string{"administrator"}, after: []string{"auditor"}},
		"disableUser":          {page: carol, before: []string{"carol"}},
		"enableUser":           {page: carol, before: []string{"carol"}},
		"unlockUser":           {page: carol, before: []string{"carol"}, ready: p.lockOut("carol")},
		"bindOIDC":             {page: carol, fields: []string{"email", "carol@id.example"}, after: []string{"carol@id.example"}},
		"setEmail":             {page: carol, fields: []string{"email", "carol@bank.example"}, after: []string{"carol@bank.example"}},
		"deleteUser":           {page: carol, before: []string{"carol"}, after: []string{"removed"}},
		"createInvitation":     {page: "/users", fields: []string{"name", "dora", "role", "viewer"}, after: []string{"dora", "viewer"}},
		"createToken":          {page: "/users", fields: []string{"name", "robot", "key_stores=*", "on", "operations=*", "on", "networks", "10.0.0.0/8"}, after: []string{"robot", "10.0.0.0/8"}},
		"setSettings":          {page: "/settings", fields: []string{"approval_hours", "48"}, before: []string{"approval hours", "72"}, after: []string{"48"}},
		"installCertificate":   {page: "/settings", fields: []string{"chain", p.renewed(), "own_authority=true", "on", "other_name=true", "on"}, after: []string{"BEGIN CERTIFICATE"}},
		"restoreCertificate":   {page: "/settings"},
		"shareCertificate":     {page: "/settings"},
		"unshareCertificate":   {page: "/settings"},
		"discardCredential":    {page: "/state", fields: []string{"keystore", "walk", "credential", p.credential}, before: []string{p.credential}},
		"discardGrant":         {page: "/state", fields: []string{"keystore", "walk", "grant", p.grant}, before: []string{p.grant}},
	}
}

// runAhead has the wall clock as far ahead of the time that has passed as it takes for what is due to
// wait.
func (p *pair) runAhead() {
	p.t.Helper()
	var s operation.Status
	for p.ok("GET", "status", nil, &s); s.Clock.Waits == ""; p.ok("GET", "status", nil, &s) {
		p.pass(time.Minute)
	}
}

// lockOut has a user's password refused, as somebody has guessed at it too often.
func (p *pair) lockOut(name string) func() {
	return func() {
		p.t.Helper()
		for range 10 {
			res, err := p.s.client().PostForm("https://"+p.Admin.String()+"/signin", url.Values{"name": {name}, "password": {"not the sentence"}, "code": {"000000"}})
			if err != nil {
				p.t.Fatal(err)
			}
			_ = res.Body.Close()
		}
	}
}

// renewed is a certificate of the key that the appliance has.
func (p *pair) renewed() string {
	p.t.Helper()
	c, err := tls.LoadX509KeyPair(p.s.cfg.XKS.Certificate, p.s.cfg.XKS.Key)
	if err != nil {
		p.t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(4711), Subject: pkix.Name{CommonName: "renewed"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(1000 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, c.Leaf.PublicKey, c.PrivateKey)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// TestTwoPeopleInTheConsole walks over each operation that can need a second person: alice asks
// for it in the form that it has in the console, it waits, bob sees what it would change and why,
// approves it, it is done for alice, and the audit log has both. A new operation is among them by
// itself, and needs a line in [pair.all].
func TestTwoPeopleInTheConsole(t *testing.T) {
	p := newPair(t)
	all := p.all()
	var chosen []string
	for _, route := range operation.Table() {
		if route.Guards().FourEyes {
			chosen = append(chosen, route.ID)
		}
	}
	p.ok("PUT", "settings", operation.Settings{FourEyes: chosen}, nil)
	presence := 0
	for _, route := range operation.Table() {
		if !route.Guards().FourEyes {
			continue
		}
		x, there := all[route.ID]
		switch {
		case !there:
			t.Errorf("%s can need a second person, and nobody asks for it in the console here", route.ID)
			continue
		}
		a := p.ask(route, x)
		if presence == 0 { // what bob has proved is too old: he proves it again
			p.pass(operation.PresenceTime + time.Minute)
		}
		p.approve(route, a, x)
		if p.prove(p.bob) {
			presence++
		}
		p.finish(route, a, x)
		p.recordedBoth(route, a.ID)
	}
	if presence == 0 {
		t.Error("bob was never asked to prove that it is him")
	}
	p.alice.Open("/approvals")
	p.alice.HasNot("Approved, failed")
}
