package module

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/pkcs11"

	"holdfast/hsm/dialect"
	"holdfast/hsm/wire"
)

// trials are what [wire.Try] does, by name. What they make has the labels of [token.trialLabels].
var trials = map[string]func(*token, time.Time) error{
	wire.TryKey: (*token).tryKey, wire.TryDialect: (*token).tryDialect, wire.TrySessions: (*token).trySessions, wire.TryLabel: (*token).tryLabel, wire.TryID: (*token).tryID,
}

// openForTrials logs in to a token of which nothing is known yet.
func openForTrials(s wire.Settings, pin []byte, before func() error) (*token, *wire.Found, error) {
	t, err := enter(s, pin, before)
	if err != nil {
		return nil, nil, err
	}
	t.trials, err = t.describe()
	return t, t.trials, err
}

// describe says what can be said without a login.
func (t *token) describe() (*wire.Found, error) {
	i, err := t.module.GetInfo()
	if err != nil {
		return nil, wrap("C_GetInfo", err)
	}
	found := &wire.Found{Library: wire.Library{Manufacturer: i.ManufacturerID, Description: i.LibraryDescription,
		Version: version(i.LibraryVersion), Cryptoki: version(i.CryptokiVersion)}}
	for _, m := range []wire.Mechanism{
		{Name: "CKM_AES_KEY_GEN", Code: pkcs11.CKM_AES_KEY_GEN}, {Name: "CKM_AES_GCM", Code: pkcs11.CKM_AES_GCM},
		{Name: wrappings[0].name, Code: wrappings[0].mechanism}, {Name: wrappings[1].name, Code: wrappings[1].mechanism},
	} {
		flags, err := t.flags(m.Code)
		if err != nil {
			return nil, err
		}
		m.Uses = usesOf(flags)
		found.Mechanisms = append(found.Mechanisms, m)
	}
	switch err := t.learn(); {
	case errors.Is(err, wire.NoMechanism):
		found.Lacks = err.Error()
	case err != nil:
		return nil, err
	case t.wrapping != nil:
		found.Wrapping = t.wrapping.name
	}
	return found, nil
}

func usesOf(flags uint) []string {
	uses := []string{}
	for _, u := range []struct {
		flag uint
		name string
	}{{pkcs11.CKF_GENERATE, "generate"}, {pkcs11.CKF_ENCRYPT, "encrypt"}, {pkcs11.CKF_DECRYPT, "decrypt"}, {pkcs11.CKF_WRAP, "wrap"}, {pkcs11.CKF_UNWRAP, "unwrap"}} {
		if flags&u.flag != 0 {
			uses = append(uses, u.name)
		}
	}
	return uses
}

func (t *token) try(name string, until time.Time) (answer, error) {
	try, ok := trials[name]
	if !ok || t.trials == nil {
		return answer{}, fmt.Errorf("there is no trial %q of this token", name)
	}
	t.tried = true
	if err := try(t, until); err != nil {
		return answer{}, err
	}
	return answer{fields: [][]byte{wire.JSON(t.trials)}}, nil
}

// tryKey makes the key that the other trials work with, as the master key is made.
func (t *token) tryKey(until time.Time) error {
	label := t.settings.MasterKeyLabel
	return t.do(until, func(h pkcs11.SessionHandle) error {
		if err := t.mustNotExist(h, label); err != nil {
			return err
		}
		if err := t.generate(h, label); err != nil {
			return err
		}
		key, err := t.key(h, label)
		if err != nil {
			return err
		}
		return t.checkAttributes(h, label, key)
	})
}

// tryDialect tries the dialects in their order, until one works. A token without AES-GCM has a key
// wrapped and unwrapped.
func (t *token) tryDialect(until time.Time) error {
	if t.wrapping != nil {
		return t.do(until, t.roundTrip)
	}
	for _, d := range dialect.All {
		if d.Wraps {
			continue
		}
		t.dialect = d
		err := t.do(until, t.roundTrip)
		if errors.Is(err, wire.Lost) {
			return err
		}
		spoken := wire.Spoken{Name: d.Name}
		if err != nil {
			spoken.Error = err.Error()
		}
		t.trials.Dialects = append(t.trials.Dialects, spoken)
		if err == nil {
			t.trials.Dialect = d.Name
			break
		}
	}
	for _, d := range dialect.All {
		if d.Name != t.trials.Dialect && t.trials.Dialect != "" && d.Alike(t.dialect) {
			t.trials.Same = append(t.trials.Same, d.Name)
		}
	}
	return nil
}

// roundTrip has the token encrypt and decrypt, and refuse what was not encrypted so.
func (t *token) roundTrip(h pkcs11.SessionHandle) error {
	key, err := t.key(h, t.settings.MasterKeyLabel)
	if err != nil {
		return err
	}
	aad := []byte("trial")
	first, err := t.protect(h, key, knownText, aad)
	if err != nil {
		return err
	}
	second, err := t.protect(h, key, knownText, aad)
	if err != nil {
		return err
	}
	if bytes.Equal(first.iv, second.iv) {
		return errors.New("two encryptions have the same IV")
	}
	got, err := t.decrypt(h, key, first, aad)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, knownText) {
		return errors.New("what was encrypted comes back as something else")
	}
	if got, err = t.decrypt(h, key, second, []byte("other")); err == nil {
		clear(got)
		return errors.New("it decrypts also with other additional data (AAD) than what was encrypted with")
	}
	return nil
}

// trySessions opens sessions beside those that are open, and closes them.
func (t *token) trySessions(time.Time) error {
	var more []pkcs11.SessionHandle
	defer func() {
		for _, h := range more {
			t.sessions.close(h)
		}
	}()
	t.sessions.mu.Lock()
	t.trials.Sessions = t.sessions.open
	t.sessions.mu.Unlock()
	for t.trials.Sessions < t.settings.MaxSessions {
		h, err := t.sessions.newSession()
		if err != nil {
			e, ok := errors.AsType[*wire.Error](err)
			if !ok {
				return err
			}
			t.trials.SessionsEnd = e.Error()
			break
		}
		more = append(more, h)
		t.trials.Sessions++
	}
	return nil
}

func (t *token) tryLabel(until time.Time) error {
	label := t.trialLabels()[1]
	return t.do(until, func(h pkcs11.SessionHandle) error {
		if err := t.generate(h, label); err != nil {
			return err
		}
		key, err := t.key(h, label)
		if err != nil {
			return err
		}
		t.forgetKey(label)
		return wrap("C_DestroyObject", t.module.DestroyObject(h, key))
	})
}

func (t *token) tryID(until time.Time) error {
	label, id := t.trialLabels()[2], make([]byte, wire.LongID)
	_, _ = rand.Read(id) // never fails (crypto/rand)
	return t.do(until, func(h pkcs11.SessionHandle) error {
		template := append(t.keyTemplate(label, nil), pkcs11.NewAttribute(pkcs11.CKA_ID, id))
		key, err := t.module.GenerateKey(h, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, template)
		if err != nil {
			return wrap("C_GenerateKey", err)
		}
		got, err := t.attribute(h, key, pkcs11.CKA_ID)
		if err == nil && !bytes.Equal(got, id) {
			err = fmt.Errorf("the HSM makes %d bytes of it", len(got))
		}
		return either(err, wrap("C_DestroyObject", t.module.DestroyObject(h, key)))
	})
}

// trialLabels are the labels of what trials make: the key, a long one, one for CKA_ID, and what tokens
// make of the long one that cut labels.
func (t *token) trialLabels() []string {
	label := t.settings.MasterKeyLabel
	long := wire.TrialLabel(label)
	return []string{label, long, label + "i", long[:min(shortLabel, len(long))]}
}

// sweep destroys what trials have made.
func (t *token) sweep(until time.Time) error {
	if t.trials == nil {
		return errors.New("the token is not open for trials")
	}
	return t.once(until, func(h pkcs11.SessionHandle) (failed error) {
		for _, label := range t.trialLabels() {
			t.forgetKey(label)
			found, err := t.findAll(h, maxDataObjects, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)})
			if err != nil {
				return err
			}
			data, err := t.findAll(h, maxDataObjects, dataTemplate(pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)))
			if err == nil {
				found = append(found, data...)
			}
			for _, o := range found {
				failed = either(failed, wrap("C_DestroyObject", t.module.DestroyObject(h, o)))
			}
		}
		t.tried = failed != nil
		return failed
	})
}
