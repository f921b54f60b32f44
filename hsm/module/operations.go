package module

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miekg/pkcs11"

	"holdfast/hsm/wire"
)

// facts gives what the token says about itself.
func facts(i pkcs11.TokenInfo) wire.Facts {
	return wire.Facts{Label: i.Label, Manufacturer: i.ManufacturerID, Model: i.Model, Serial: i.SerialNumber,
		Firmware: version(i.FirmwareVersion), Hardware: version(i.HardwareVersion), FreeSessions: available(i)}
}

func version(v pkcs11.Version) string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

func (t *token) info(until time.Time) (f wire.Facts, err error) {
	err = t.do(until, func(pkcs11.SessionHandle) error {
		i, err := t.module.GetTokenInfo(t.slot)
		if err != nil {
			return wrap("C_GetTokenInfo", err)
		}
		f = facts(i)
		f.Dialect, f.MaxSessions = t.dialect.Name, t.sessions.most
		return nil
	})
	return f, err
}

func (t *token) random(until time.Time, n int) (out []byte, err error) {
	err = t.do(until, func(h pkcs11.SessionHandle) error {
		err := erasing(n, func() (err error) {
			out, err = t.module.GenerateRandom(h, n)
			return err
		})
		if err == nil && len(out) != n {
			return fmt.Errorf("C_GenerateRandom: %d bytes came back for %d", len(out), n)
		}
		return wrap("C_GenerateRandom", err)
	})
	return out, err
}

// wrapSecret encrypts a secret under the master key, inside of the token or with a key that
// it wraps, and binds it to aad.
func (t *token) wrapSecret(until time.Time, secret, aad []byte) (blob []byte, err error) {
	err = t.do(until, func(h pkcs11.SessionHandle) error {
		key, err := t.key(h, t.settings.MasterKeyLabel)
		if err != nil {
			return err
		}
		s, err := t.protect(h, key, secret, aad)
		blob = s.blob()
		return err
	})
	return blob, err
}

// unwrapSecret decrypts what wrapSecret gave; [wire.NotAuthentic] if the blob, the aad or
// the master key is another.
func (t *token) unwrapSecret(until time.Time, blob, aad []byte) ([]byte, error) {
	s, err := parse(blob)
	if err != nil {
		return nil, err
	}
	return t.decryptWith(until, t.settings.MasterKeyLabel, s, aad)
}

func (t *token) generateKey(until time.Time, label string) error {
	if err := t.keysInToken(); err != nil {
		return err
	}
	return t.do(until, func(h pkcs11.SessionHandle) error {
		if err := t.mustNotExist(h, label); err != nil {
			return err
		}
		return t.generate(h, label)
	})
}

func (t *token) importKey(until time.Time, label string, key []byte) error {
	if len(key) != keyBytes {
		return fmt.Errorf("key %q: %d bytes; an AES-256 key has %d", label, len(key), keyBytes)
	}
	if err := t.keysInToken(); err != nil {
		return err
	}
	return t.do(until, func(h pkcs11.SessionHandle) error {
		if err := t.mustNotExist(h, label); err != nil {
			return err
		}
		return t.makeKey(h, "C_CreateObject", label, key, func(template []*pkcs11.Attribute) (object pkcs11.ObjectHandle, err error) {
			err = erasing(len(key), func() (err error) {
				object, err = t.module.CreateObject(h, template)
				return err
			})
			return object, err
		})
	})
}

func (t *token) mustNotExist(h pkcs11.SessionHandle, label string) error {
	found, err := t.objects(h, label)
	if err == nil && len(found) > 0 {
		return fmt.Errorf("key %q: %w", label, wire.Exists)
	}
	return err
}

func (t *token) destroyKey(until time.Time, label string) error {
	return t.do(until, func(h pkcs11.SessionHandle) error {
		t.forgetKey(label) // the handle must be of now
		key, err := t.key(h, label)
		if err != nil {
			return err
		}
		t.forgetKey(label)
		return wrap("C_DestroyObject", t.module.DestroyObject(h, key))
	})
}

func (t *token) encryptWith(until time.Time, label string, plaintext, aad []byte) (out sealed, err error) {
	if err := t.keysInToken(); err != nil {
		return sealed{}, err
	}
	err = t.do(until, func(h pkcs11.SessionHandle) error {
		key, err := t.key(h, label)
		if err != nil {
			return err
		}
		out, err = t.encrypt(h, key, plaintext, aad)
		return err
	})
	return out, err
}

// decryptWith is the reverse of encryptWith. That a ciphertext does not authenticate is
// believed of a token that decrypts in the same session what is known to be good, and then
// says the same again.
func (t *token) decryptWith(until time.Time, label string, in sealed, aad []byte) (out []byte, err error) {
	err = t.do(until, func(h pkcs11.SessionHandle) error {
		key, err := t.key(h, label)
		if err != nil {
			return err
		}
		if out, err = t.decrypt(h, key, in, aad); !unclear(err) {
			return err
		}
		t.mu.Lock()
		known := t.known
		t.mu.Unlock()
		if err := t.decryptKnown(h, known); err != nil {
			return err
		}
		if key, err = t.key(h, label); err != nil {
			return err
		}
		if out, err = t.decrypt(h, key, in, aad); unclear(err) {
			return wire.NotAuthentic
		}
		return err
	})
	return out, err
}

// application marks the data objects of Holdfast (CKA_APPLICATION).
const application = "Holdfast"

// The bounds of lists, and of the value of a data object in bytes.
const (
	maxDataObjects = 256
	maxDataValue   = 4096
	maxKeyLabels   = 10_000
)

// dataObject is a data object (CKO_DATA) of Holdfast.
type dataObject struct {
	label string
	value []byte
}

// dataObjects gives those of Holdfast, ordered by label. One whose value is too long has
// none here.
func (t *token) dataObjects(until time.Time) (list []dataObject, err error) {
	err = t.do(until, func(h pkcs11.SessionHandle) error {
		list = nil
		missing := false
		handles, err := t.findAll(h, maxDataObjects+1, dataTemplate())
		if err != nil {
			return err
		}
		if len(handles) > maxDataObjects {
			return fmt.Errorf("the token has more than %d data objects of the application %q; remove those that are not Holdfast's", maxDataObjects, application)
		}
		for _, o := range handles {
			label, err := t.label(h, o)
			var value []byte
			if err == nil {
				value, err = t.attribute(h, o, pkcs11.CKA_VALUE)
			}
			if gone(err) {
				missing = true
				continue
			} else if err != nil {
				return err
			}
			if len(value) > maxDataValue {
				value = nil
			}
			list = append(list, dataObject{label, value})
		}
		slices.SortFunc(list, func(a, b dataObject) int { return strings.Compare(a.label, b.label) })
		return t.whole(h, missing)
	})
	return list, err
}

func dataTemplate(more ...*pkcs11.Attribute) []*pkcs11.Attribute {
	return append([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_DATA),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_APPLICATION, application),
	}, more...)
}

func (t *token) createData(until time.Time, o dataObject) error {
	if len(o.value) > maxDataValue {
		return fmt.Errorf("data object %q: %d bytes; at most %d are kept", o.label, len(o.value), maxDataValue)
	}
	return t.do(until, func(h pkcs11.SessionHandle) error {
		found, err := t.labelled(h, o.label, dataTemplate())
		if err != nil {
			return err
		}
		if len(found) > 0 {
			return fmt.Errorf("data object %q: %w", o.label, wire.Exists)
		}
		object, err := t.module.CreateObject(h, dataTemplate(
			pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
			pkcs11.NewAttribute(pkcs11.CKA_LABEL, o.label),
			pkcs11.NewAttribute(pkcs11.CKA_VALUE, o.value)))
		p, long := labelRefused(o.label, err)
		switch {
		case long:
			return fmt.Errorf("data object %q: %w: %w: its label has %d bytes, and this HSM may take fewer", o.label, wire.NoDataObjects, valueOf("C_CreateObject", p), len(o.label))
		case dataRefused(err):
			return fmt.Errorf("data object %q: %w: %w", o.label, wire.NoDataObjects, wrap("C_CreateObject", err))
		case err != nil:
			return wrap("C_CreateObject", err)
		}
		return t.madeData(h, object, o.label)
	})
}

// madeData keeps a data object only if it has its label: by another one it would not be found, and
// be made once more.
func (t *token) madeData(h pkcs11.SessionHandle, object pkcs11.ObjectHandle, label string) error {
	got, err := t.label(h, object)
	if err == nil && got == label {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("data object %q: %w: the HSM has changed its label of %d bytes to %.64q", label, wire.NoDataObjects, len(label), got)
	}
	return either(wrap("C_DestroyObject", t.module.DestroyObject(h, object)), err)
}

// destroyData removes those of that label and value: a value that is another stays.
func (t *token) destroyData(until time.Time, o dataObject) error {
	return t.do(until, func(h pkcs11.SessionHandle) error {
		found, err := t.findAll(h, maxDataObjects, dataTemplate(pkcs11.NewAttribute(pkcs11.CKA_LABEL, o.label)))
		if err != nil {
			return err
		}
		destroyed := false
		for _, object := range found {
			value, err := t.attribute(h, object, pkcs11.CKA_VALUE)
			if err != nil && !gone(err) {
				return err
			}
			if err != nil || !bytes.Equal(value, o.value) {
				continue
			}
			if err := t.module.DestroyObject(h, object); err != nil {
				return wrap("C_DestroyObject", err)
			}
			destroyed = true
		}
		if !destroyed {
			return fmt.Errorf("data object %q: %w", o.label, wire.NotFound)
		}
		return nil
	})
}

// keyLabels gives the labels of secret keys, sorted, of the first maxKeyLabels that the
// token names. Those of the master key and the probe key are left out.
func (t *token) keyLabels(until time.Time) (labels []string, err error) {
	err = t.do(until, func(h pkcs11.SessionHandle) error {
		labels = nil
		missing := false
		handles, err := t.findAll(h, maxKeyLabels, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY)})
		if err != nil {
			return err
		}
		for _, o := range handles {
			label, err := t.label(h, o)
			if gone(err) {
				missing = true // it is destroyed, or another's that has no label
				continue
			} else if err != nil {
				return err
			}
			if label != bare(t.settings.MasterKeyLabel) && label != bare(t.settings.ProbeKeyLabel) {
				labels = append(labels, label)
			}
		}
		slices.Sort(labels)
		return t.whole(h, missing)
	})
	return labels, err
}

// whole says whether a list is one of what there is. If objects were missing that a search had found,
// the token must show that it has not lost them all.
func (t *token) whole(h pkcs11.SessionHandle, missing bool) error {
	t.mu.Lock()
	known := t.known
	t.mu.Unlock()
	if !missing || known.tag == nil {
		return nil
	}
	return t.decryptKnown(h, known)
}
