package module

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/miekg/pkcs11"

	"holdfast/hsm/dialect"
	"holdfast/hsm/wire"
)

// token is a token that is logged in, until the process ends.
type token struct {
	settings wire.Settings
	module   *pkcs11.Ctx
	slot     uint
	sessions sessions
	dialect  dialect.Dialect
	wrapping *wrapping   // nil if the token does AES-GCM
	trials   *wire.Found // what trials found out; nil if the token is open for its work
	tried    bool        // objects may have been made that [token.sweep] destroys

	mu sync.Mutex
	// handles are those of key objects, by label, in each session. PKCS#11 promises a handle to the
	// session that has found it (v2.40 base specification, section 2.5.1): in another one it may be
	// invalid, or be another object's. seen are the last ones, of whatever session.
	handles map[pkcs11.SessionHandle]map[string]pkcs11.ObjectHandle
	seen    map[string]pkcs11.ObjectHandle
	// known is a ciphertext of the master key that is known to be good; empty until Prepare.
	known sealed
	lost  error // why nothing works any more
}

// load loads the library and finds the token.
func load(s wire.Settings) (*token, pkcs11.TokenInfo, error) {
	m := pkcs11.New(s.Module)
	if m == nil {
		return nil, pkcs11.TokenInfo{}, fmt.Errorf("hsm: %s cannot be loaded as a PKCS#11 module: %w; check the path, and that the vendor's software is installed", s.Module, wire.NotFound)
	}
	d, ok := dialect.Of(s.Dialect)
	if !ok {
		return nil, pkcs11.TokenInfo{}, fmt.Errorf("hsm: there is no dialect %q; there are %s", s.Dialect, oneOf(dialect.Names()))
	}
	t := &token{settings: s, module: m, dialect: d, handles: map[pkcs11.SessionHandle]map[string]pkcs11.ObjectHandle{}, seen: map[string]pkcs11.ObjectHandle{}}
	if err := m.Initialize(); err != nil {
		return nil, pkcs11.TokenInfo{}, fmt.Errorf("hsm: %s: %w", s.Module, wrap("C_Initialize", err))
	}
	info, err := t.find()
	return t, info, err
}

// find finds the token, alone of its name. Other slots are not its matter, unless it is not
// found: then their trouble may be why.
func (t *token) find() (info pkcs11.TokenInfo, err error) {
	s := t.settings
	slots, err := t.module.GetSlotList(true)
	if err != nil {
		return info, fmt.Errorf("hsm: %s: %w", s.Module, wrap("C_GetSlotList", err))
	}
	found := 0
	var others []string
	for slot, c := range t.tokens(slots) {
		if c.err != nil {
			others = append(others, fmt.Sprintf("slot %d: %v", slot, c.err))
		} else if t.named(c.info) {
			found++
			t.slot, info = slot, c.info
		}
	}
	slices.Sort(others)
	switch {
	case found == 0 && len(others) > 0:
		return info, fmt.Errorf("%s: %w; check its name, and that the HSM is connected; %s", s.Name(), wire.NotFound, strings.Join(others, "; "))
	case found == 0:
		return info, fmt.Errorf("%s: %w; check its name, and that the HSM is connected", s.Name(), wire.NotFound)
	case found > 1:
		return info, fmt.Errorf("%s: %w: %d tokens have that name; select one with hsm.token_serial", s.Name(), wire.Ambiguous, found)
	}
	return info, nil
}

func (t *token) named(i pkcs11.TokenInfo) bool {
	s := t.settings
	return (s.TokenLabel != "" && i.Label == s.TokenLabel) || (s.TokenSerial != "" && i.SerialNumber == s.TokenSerial)
}

// card is what a slot says of the token in it.
type card struct {
	info pkcs11.TokenInfo
	err  error
}

// How long a slot is waited for that does not answer, until the token is found and after.
const (
	slotWait      = 10 * time.Second
	neighbourWait = time.Second
)

// tokens asks all slots at once, because one that does not answer is often another HSM's.
func (t *token) tokens(slots []uint) map[uint]card {
	type answer struct {
		slot uint
		card
	}
	answers := make(chan answer, len(slots))
	all := map[uint]card{}
	for _, slot := range slots {
		all[slot] = card{err: errors.New("C_GetTokenInfo does not answer")}
		go func() {
			i, err := t.module.GetTokenInfo(slot)
			answers <- answer{slot, card{i, wrap("C_GetTokenInfo", err)}}
		}()
	}
	wait := time.After(slotWait)
	for range slots {
		select {
		case a := <-answers:
			all[a.slot] = a.card
			if a.err == nil && t.named(a.info) {
				wait = time.After(neighbourWait)
			}
		case <-wait:
			return all
		}
	}
	return all
}

// mayLogIn says why the PIN is not to be tried.
func (t *token) mayLogIn(info pkcs11.TokenInfo) error {
	name := t.settings.Name()
	switch {
	case info.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return fmt.Errorf("%s: %w: it is locked; the HSM's security officer can unlock it", name, wire.PINRefused)
	case info.Flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0:
		return fmt.Errorf("%s: %w: the HSM would lock after one more wrong PIN, so it is not tried; log in with the vendor's tool once", name, wire.PINRefused)
	case info.Flags&pkcs11.CKF_USER_PIN_COUNT_LOW != 0 && t.settings.Unanswered:
		return fmt.Errorf("%s: %w: the last attempt had no answer, and the HSM says that a wrong PIN was tried since the last login; log in with the vendor's tool once", name, wire.PINRefused)
	}
	return nil
}

// open finds the token and logs in, once. It calls before when it is about to.
func open(s wire.Settings, pin []byte, before func() error) (*token, wire.Opened, error) {
	t, err := enter(s, pin, before)
	if err != nil {
		return nil, wire.Opened{}, err
	}
	o := wire.Opened{Sessions: t.sessions.most, OtherKeys: t.wrapping == nil}
	err = t.do(time.Now().Add(time.Minute), func(h pkcs11.SessionHandle) error {
		found, err := t.search(h, s.MasterKeyLabel, soon)
		o.MasterKey = len(found) > 0
		return err
	})
	return t, o, err
}

// enter finds the token, learns what it can do, and logs in.
func enter(s wire.Settings, pin []byte, before func() error) (*token, error) {
	t, info, err := load(s)
	if err == nil {
		err = t.mayLogIn(info)
	}
	if err != nil {
		return nil, err
	}
	most := max(s.MaxSessions, 1)
	if free := available(info); free == 0 {
		return nil, fmt.Errorf("%s: it allows %d sessions, and all are in use: one must be free; end other users of the token, or allow more in the HSM", s.Name(), min(info.MaxRwSessionCount, info.MaxSessionCount))
	} else if free > 0 {
		most = min(most, free)
	}
	t.sessions = sessions{module: t.module, slot: t.slot, limit: most, most: most, back: make(chan struct{}, 1), closed: t.forgetSession}
	if err := t.learn(); err != nil {
		return nil, fmt.Errorf("%s: %w", s.Name(), err)
	}
	if err := before(); err != nil {
		return nil, err
	}
	return t, t.logIn(pin)
}

func (t *token) logIn(pin []byte) error {
	h, err := t.sessions.take(time.Now())
	if err != nil {
		return fmt.Errorf("%s: %w", t.settings.Name(), err)
	}
	defer t.sessions.put(h)
	err = erasing(len(pin)+1, func() error { return t.module.Login(h, pkcs11.CKU_USER, text(pin)) })
	switch {
	case err == nil || codeIn(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN):
		return nil
	case codeIn(err, pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE):
		return fmt.Errorf("%s: %w: %w; it is not tried again", t.settings.Name(), wrong{wire.PINRefused}, wrap("C_Login", err))
	case pinRefused(err):
		return fmt.Errorf("%s: %w: %w; it is not tried again", t.settings.Name(), wire.PINRefused, wrap("C_Login", err))
	}
	return fmt.Errorf("%s: %w", t.settings.Name(), wrap("C_Login", err))
}

// wrong is that a PIN was refused since it is another.
type wrong struct{ wire.Class }

func (w wrong) Unwrap() []error { return []error{w.Class, wire.PINWrong} }

// text gives the same bytes as a string, not a copy of them.
func text(secret []byte) string { return unsafe.String(unsafe.SliceData(secret), len(secret)) }

// prepare finds the master key and the probe key, or makes them, and gives the ciphertext
// that is known to be good from here on. known, unless it is empty, is that of a process
// before.
func (t *token) prepare(p wire.Preparation, known sealed) (sealed, error) {
	err := t.do(time.Now().Add(time.Minute), func(h pkcs11.SessionHandle) error {
		if _, err := t.module.GenerateRandom(h, keyBytes); err != nil { // all keys are made of it
			return wrap("C_GenerateRandom", err)
		}
		patience := late
		if p.MakeMasterKey {
			patience = 0 // it was searched for when the token was opened
		}
		if err := t.prepareKey(h, t.settings.MasterKeyLabel, p.MakeMasterKey, patience); err != nil {
			return fmt.Errorf("master %w", err)
		}
		if t.wrapping != nil { // there is no limit to what is wrapped by it, so no other key is needed for probes
			return nil
		}
		if err := t.prepareKey(h, t.settings.ProbeKeyLabel, true, min(patience, soon)); err != nil {
			return fmt.Errorf("probe %w", err)
		}
		return nil
	})
	if err != nil {
		return sealed{}, err
	}
	err = t.do(time.Now().Add(time.Minute), func(h pkcs11.SessionHandle) (err error) {
		key, err := t.key(h, t.settings.MasterKeyLabel)
		if err != nil {
			return err
		}
		fresh, err := t.protect(h, key, knownText, nil)
		if err != nil {
			return err
		}
		if err := t.decryptKnown(h, fresh); err != nil {
			return err
		}
		if known.tag == nil {
			known = fresh
			return nil
		}
		if err := t.decryptKnown(h, known); unclear(err) { // the token works
			return fmt.Errorf("the master key %q is not the one there was before: %w: %w", t.settings.MasterKeyLabel, wire.NotAuthentic, err)
		} else if err != nil {
			return err
		}
		return nil
	})
	if err != nil {
		return sealed{}, err
	}
	t.mu.Lock()
	t.known = known
	t.mu.Unlock()
	return known, nil
}

// knownText is what the ciphertext that is known to be good has in it.
var knownText = []byte("holdfast")

// How long a key is searched for that does not show: objects that another made may do so
// some time later, and a second master key would be worse than a pause. The longer one is
// for a key that must be there.
const (
	soon = 200 * time.Millisecond
	late = 3 * time.Second
)

// search gives up to two key objects of that label, and is that patient.
func (t *token) search(h pkcs11.SessionHandle, label string, patience time.Duration) ([]pkcs11.ObjectHandle, error) {
	until := time.Now().Add(patience)
	for pause := soon / 4; ; pause *= 2 {
		found, err := t.objects(h, label)
		if err != nil || len(found) > 0 || time.Now().Add(pause).After(until) {
			return found, err
		}
		time.Sleep(pause)
	}
}

// prepareKey finds the key of that label, or may make it.
func (t *token) prepareKey(h pkcs11.SessionHandle, label string, make bool, patience time.Duration) error {
	found, err := t.search(h, label, patience)
	switch {
	case err != nil:
		return err
	case len(found) > 1:
		return ambiguous(label, len(found))
	case len(found) == 1:
		return t.checkAttributes(h, label, found[0])
	case !make:
		return fmt.Errorf("%w; is this the right token, and is it restored completely?", notFound(label))
	}
	return t.generate(h, label)
}

// uses are the attributes that allow a key what it is for.
func (t *token) uses() []use {
	if t.wrapping != nil && !t.wrapping.encrypts {
		return []use{{pkcs11.CKA_WRAP, "CKA_WRAP"}, {pkcs11.CKA_UNWRAP, "CKA_UNWRAP"}}
	}
	return []use{{pkcs11.CKA_ENCRYPT, "CKA_ENCRYPT"}, {pkcs11.CKA_DECRYPT, "CKA_DECRYPT"}}
}

type use struct {
	attribute uint
	name      string
}

// unsaid are the attributes that a template leaves out, one set after the other, where the token
// refuses it: some know these values by themselves and do not have them said. CKA_CLASS and
// CKA_KEY_TYPE follow from the mechanism that makes a key.
var unsaid = [][]uint{nil, {pkcs11.CKA_PRIVATE}, {pkcs11.CKA_CLASS, pkcs11.CKA_KEY_TYPE}, {pkcs11.CKA_SENSITIVE, pkcs11.CKA_EXTRACTABLE},
	{pkcs11.CKA_PRIVATE, pkcs11.CKA_CLASS, pkcs11.CKA_KEY_TYPE, pkcs11.CKA_SENSITIVE, pkcs11.CKA_EXTRACTABLE}}

// makeKey has the token make a key, of value nil, or take it. The error is that of the whole template.
func (t *token) makeKey(h pkcs11.SessionHandle, function, label string, value []byte, make func([]*pkcs11.Attribute) (pkcs11.ObjectHandle, error)) error {
	var first error
	for _, left := range unsaid {
		template := t.keyTemplate(label, value)
		if value == nil || !slices.Contains(left, uint(pkcs11.CKA_CLASS)) {
			template = slices.DeleteFunc(template, func(a *pkcs11.Attribute) bool { return slices.Contains(left, a.Type) })
		}
		key, err := make(template)
		if first == nil {
			first = err
		}
		if templateRefused(err) {
			continue
		}
		if err == nil && len(left) > 0 { // then the token must have given it what it was not told
			err = t.checkAttributes(h, label, key, needed{pkcs11.CKA_PRIVATE, "CKA_PRIVATE true", true})
			if err != nil {
				return either(wrap("C_DestroyObject", t.module.DestroyObject(h, key)), fmt.Errorf("%w, and the HSM refuses templates that say so: %w", err, wrap(function, first)))
			}
		}
		return t.made(h, function, label, key, err)
	}
	return t.made(h, function, label, 0, first)
}

// keyTemplate is what each key has. A key of value nil is made by the token. CKA_ID is left
// out: nothing needs it, and some tokens refuse one of more than two bytes.
func (t *token) keyTemplate(label string, value []byte) []*pkcs11.Attribute {
	template := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	}
	for _, u := range t.uses() {
		template = append(template, pkcs11.NewAttribute(u.attribute, true))
	}
	if value == nil {
		return append(template, pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, keyBytes))
	}
	return append(template, pkcs11.NewAttribute(pkcs11.CKA_VALUE, value))
}

// keyBytes is the length of each key.
const keyBytes = 32

// generate makes an AES-256 key that stays in the token.
func (t *token) generate(h pkcs11.SessionHandle, label string) error {
	return t.makeKey(h, "C_GenerateKey", label, nil, func(template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
		return t.module.GenerateKey(h, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, template)
	})
}

// made keeps a key object that was made, if it can be found again.
func (t *token) made(h pkcs11.SessionHandle, function, label string, key pkcs11.ObjectHandle, err error) error {
	if p, ok := labelRefused(label, err); ok {
		return fmt.Errorf("key %q: %w: its label has %d bytes, and this HSM may take fewer; %s", label, valueOf(function, p), len(label), t.otherLabel(label))
	} else if err != nil {
		return wrap(function, err)
	}
	got, err := t.label(h, key)
	if err != nil {
		return err
	}
	if got != bare(label) {
		return either(wrap("C_DestroyObject", t.module.DestroyObject(h, key)),
			fmt.Errorf("key %q: the HSM has changed its label of %d bytes to %.64q, by which it is not found again; %s", label, len(label), got, t.otherLabel(label)))
	}
	t.keep(h, label, key)
	return nil
}

// shortLabel is how long a label may be in all tokens of which a limit is known, in bytes.
const shortLabel = 16

// labelRefused says whether the length of a label may be why an object was not made.
func labelRefused(label string, err error) (p pkcs11.Error, ok bool) {
	p, ok = errors.AsType[pkcs11.Error](err)
	return p, ok && len(label) > shortLabel && codeIn(p, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, pkcs11.CKR_TEMPLATE_INCONSISTENT, pkcs11.CKR_DATA_LEN_RANGE)
}

// otherLabel says what to do where a label is too long.
func (t *token) otherLabel(label string) string {
	switch label {
	case t.settings.MasterKeyLabel:
		return "set hsm.master_key_label to a shorter one"
	case t.settings.ProbeKeyLabel:
		return "Holdfast needs labels of that length, so this HSM cannot be used"
	}
	return fmt.Sprintf("keys of custody hsm need labels of %d bytes: use custody cached", wire.LongLabel)
}

// needed is an attribute that a key must have.
type needed struct {
	attribute uint
	name      string
	want      any
}

// checkAttributes refuses a key that does not protect what depends on it, or lacks what else is needed.
func (t *token) checkAttributes(h pkcs11.SessionHandle, label string, key pkcs11.ObjectHandle, more ...needed) error {
	need := []needed{
		{pkcs11.CKA_KEY_TYPE, "CKA_KEY_TYPE CKK_AES", uint(pkcs11.CKK_AES)},
		{pkcs11.CKA_VALUE_LEN, "CKA_VALUE_LEN 32", uint(keyBytes)},
		{pkcs11.CKA_SENSITIVE, "CKA_SENSITIVE true", true},
		{pkcs11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE false", false},
	}
	need = append(need, more...)
	for _, u := range t.uses() {
		need = append(need, needed{u.attribute, u.name + " true", true})
	}
	for _, n := range need {
		got, err := t.attribute(h, key, n.attribute)
		if err != nil {
			return fmt.Errorf("key %q: %w", label, err)
		}
		if !bytes.Equal(got, pkcs11.NewAttribute(n.attribute, n.want).Value) {
			return fmt.Errorf("key %q: it must have %s and does not; destroy it if nothing depends on it, or choose another label", label, n.name)
		}
	}
	return nil
}

// do runs an operation in a session, once more if only the session or a key's handle was
// stale. If the token fails also at what is known to be good, it is lost. A session in
// which anything failed is not used again: an operation may still be active in it.
func (t *token) do(until time.Time, operation func(pkcs11.SessionHandle) error) error {
	if err := t.isLost(); err != nil {
		return err
	}
	err := t.once(until, operation)
	if sessionLost(err) || handleStale(err) {
		t.forget(err)
		err = t.once(until, operation)
	}
	switch {
	case err == nil, answered(err) && !errors.Is(err, wire.NotFound):
		return err
	case tokenLost(err), sessionLost(err):
		return t.lose(err)
	}
	// Also what is not found: a token that has lost the login shows no key object.
	if failed := t.tryKnown(until); failed != nil && !errors.Is(failed, wire.NotBegun) {
		if errors.Is(err, wire.NotFound) {
			err = failed
		}
		return t.lose(err)
	}
	return err
}

func (t *token) once(until time.Time, operation func(pkcs11.SessionHandle) error) error {
	h, err := t.sessions.take(until)
	if err != nil {
		return err
	}
	if err = operation(h); err != nil && !answered(err) {
		t.sessions.drop(h)
		return err
	}
	t.sessions.put(h)
	return err
}

// lose says from here on that the token is lost.
func (t *token) lose(why error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost = fmt.Errorf("%w: %w", wire.Lost, why)
	if answered(why) { // of the token, and no answer to what was asked
		t.lost = fmt.Errorf("%w: %v", wire.Lost, why)
	}
	return t.lost
}

func (t *token) isLost() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lost
}

// forget drops what may be as stale as what caused err.
func (t *token) forget(err error) {
	if !handleStale(err) {
		t.sessions.dropFree()
		return
	}
	t.mu.Lock()
	clear(t.handles)
	clear(t.seen)
	t.mu.Unlock()
}

// forgetSession drops the handles of a session that is closed: another one may get its number.
func (t *token) forgetSession(h pkcs11.SessionHandle) {
	t.mu.Lock()
	delete(t.handles, h)
	t.mu.Unlock()
}

// tryKnown has the token decrypt what is known to be good; nil if it does, or if there is
// nothing yet.
func (t *token) tryKnown(until time.Time) error {
	t.mu.Lock()
	known := t.known
	t.mu.Unlock()
	if known.tag == nil {
		return nil
	}
	return t.once(until, func(h pkcs11.SessionHandle) error {
		if i, err := t.module.GetSessionInfo(h); err != nil {
			return wrap("C_GetSessionInfo", err)
		} else if i.State != pkcs11.CKS_RW_USER_FUNCTIONS && i.State != pkcs11.CKS_RO_USER_FUNCTIONS {
			return errors.New("it has lost the login")
		}
		return t.decryptKnown(h, known)
	})
}

func (t *token) decryptKnown(h pkcs11.SessionHandle, known sealed) error {
	t.forgetKey(t.settings.MasterKeyLabel) // the handle must be of now
	key, err := t.key(h, t.settings.MasterKeyLabel)
	if err != nil {
		return err
	}
	got, err := t.decrypt(h, key, known, nil)
	if err == nil && !bytes.Equal(got, knownText) {
		err = errors.New("C_Decrypt: what is known to be good comes back as something else")
	}
	clear(got)
	return err
}

// key gives the handle of the key object of that label, in the session.
func (t *token) key(h pkcs11.SessionHandle, label string) (pkcs11.ObjectHandle, error) {
	t.mu.Lock()
	key, ok := t.handles[h][label]
	seen, elsewhere := t.seen[label]
	t.mu.Unlock()
	if ok {
		return key, nil
	}
	// Most tokens have the same handle in all sessions, and a look at it is less than a search.
	if elsewhere {
		if got, err := t.label(h, seen); err == nil && got == bare(label) {
			t.keep(h, label, seen)
			return seen, nil
		}
	}
	found, err := t.objects(h, label)
	if err != nil {
		return 0, err
	}
	switch len(found) {
	case 0:
		return 0, notFound(label)
	case 1:
		t.keep(h, label, found[0])
		return found[0], nil
	}
	return 0, ambiguous(label, len(found))
}

func (t *token) keep(h pkcs11.SessionHandle, label string, key pkcs11.ObjectHandle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.handles[h] == nil {
		t.handles[h] = map[string]pkcs11.ObjectHandle{}
	}
	t.handles[h][label], t.seen[label] = key, key
}

func (t *token) forgetKey(label string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.seen, label)
	for _, of := range t.handles {
		delete(of, label)
	}
}

// maxAlike bounds how many objects are looked at that a search for one label finds.
const maxAlike = 100

// objects gives up to two key objects of that label.
func (t *token) objects(h pkcs11.SessionHandle, label string) (same []pkcs11.ObjectHandle, err error) {
	return t.labelled(h, label, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY)})
}

// labelled gives up to two objects of that label which fit the template. That a search finds an object
// is not believed: some tokens take labels for the same that differ in case, or find what is destroyed.
func (t *token) labelled(h pkcs11.SessionHandle, label string, template []*pkcs11.Attribute) (same []pkcs11.ObjectHandle, err error) {
	found, err := t.findAll(h, maxAlike, append(template, pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)))
	if err != nil {
		return nil, err
	}
	for _, o := range found {
		got, err := t.label(h, o)
		if err != nil && !gone(err) {
			return nil, err
		}
		if err == nil && got == bare(label) && len(same) < 2 {
			same = append(same, o)
		}
	}
	return same, nil
}

// label gives the label of an object.
func (t *token) label(h pkcs11.SessionHandle, object pkcs11.ObjectHandle) (string, error) {
	got, err := t.attribute(h, object, pkcs11.CKA_LABEL)
	return bare(string(got)), err
}

// bare is a label without the blanks or NULs that some tokens put behind it, or keep there.
func bare(label string) string { return strings.TrimRight(label, " \x00") }

// findAll gives up to limit objects that fit the template, however few come in one call.
func (t *token) findAll(h pkcs11.SessionHandle, limit int, template []*pkcs11.Attribute) (all []pkcs11.ObjectHandle, err error) {
	if err := t.module.FindObjectsInit(h, template); err != nil {
		return nil, wrap("C_FindObjectsInit", err)
	}
	for len(all) < limit {
		found, _, err := t.module.FindObjects(h, min(limit-len(all), 100))
		if err != nil {
			return nil, wrap("C_FindObjects", err)
		}
		if len(found) == 0 {
			break
		}
		all = append(all, found...)
	}
	return all, wrap("C_FindObjectsFinal", t.module.FindObjectsFinal(h))
}

// attribute gives an attribute of an object.
func (t *token) attribute(h pkcs11.SessionHandle, object pkcs11.ObjectHandle, kind uint) ([]byte, error) {
	got, err := t.module.GetAttributeValue(h, object, []*pkcs11.Attribute{pkcs11.NewAttribute(kind, nil)})
	if err != nil {
		return nil, wrap("C_GetAttributeValue", err)
	}
	if len(got) != 1 {
		return nil, fmt.Errorf("C_GetAttributeValue: %d attributes came back for one", len(got))
	}
	return got[0].Value, nil
}
