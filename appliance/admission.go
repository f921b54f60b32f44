package appliance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"holdfast/appliance/fault"
)

// The first unlock seals users and others who came before the installation: from then on
// the state key says that they are good. Until then only this machine's seal says so. So
// the first unlock shows them to a person, and seals exactly what that person has seen.

// The kinds of what is admitted.
const (
	AdmittedUser       = "user"
	AdmittedInvitation = "invitation"
	AdmittedToken      = "API token"
	AdmittedRequest    = "request for approval"
	AdmittedSetting    = "setting"
)

// Admitted is something that the first unlock seals: somebody who can act from then on, or
// a setting that decides.
type Admitted struct {
	// Kind is one of those above, Name its name.
	Kind string `json:"kind" jsonschema:"What kind of row it is."`
	Name string `json:"name" jsonschema:"The name of the row."`
	// Detail says in words what it may do and how it is proven.
	Detail string `json:"detail" jsonschema:"What the row may do and how it is proven, in words."`
	// Refused says that this machine has not sealed the row: it is not sealed by the first
	// unlock either, and has no force.
	Refused bool `json:"refused,omitempty" jsonschema:"Whether this machine has not sealed the row: the first unlock does not seal it either, and it has no force."`

	row [sha256.Size]byte // of all that the seal is of
}

// Admit describes a row for the first unlock. The binding is that of its seal.
func Admit(kind, name, detail string, b Binding, refused bool) Admitted {
	return Admitted{Kind: kind, Name: name, Detail: detail, Refused: refused, row: sha256.Sum256(b.AAD())}
}

// Identities are the rows of other packages that the first unlock seals.
type Identities interface {
	// Admissions lists what SealAll would seal, and what it would refuse.
	Admissions(ctx context.Context) ([]Admitted, error)
	// SealAll seals it, with [Settings.Seals], and lists the same. It is called before the
	// installation is written. Set changes a setting then.
	SealAll(ctx context.Context, set func(name, value string) error) ([]Admitted, error)
	// Sealed records what was sealed, and who has confirmed it. An error stops the unlock.
	Sealed(ctx context.Context, all []Admitted, c Confirmation) error
}

// noIdentities are none.
type noIdentities struct{}

func (noIdentities) Admissions(context.Context) ([]Admitted, error) { return nil, nil }

func (noIdentities) SealAll(context.Context, func(name, value string) error) ([]Admitted, error) {
	return nil, nil
}

func (noIdentities) Sealed(context.Context, []Admitted, Confirmation) error { return nil }

// Confirmation is the word of a person that those who are admitted are the right ones.
type Confirmation struct {
	// Digest is that of the [Admission] which the person saw.
	Digest string `json:"digest" jsonschema:"The digest of the admission that the person saw."`
	// By is the person's name; empty if nobody was asked.
	By string    `json:"by,omitempty" jsonschema:"The name of the person; absent if nobody was asked."`
	At time.Time `json:"at,omitzero" jsonschema:"When it was confirmed."`
}

// Admission is who can act and what decides: what the first unlock is about to seal, or
// what is sealed since.
type Admission struct {
	// Installed says that there is an installation: the first unlock was before.
	Installed bool `json:"installed" jsonschema:"Whether there is an installation: the first unlock was before."`
	// Unconfirmed says that nobody has confirmed it yet, and somebody must.
	Unconfirmed bool `json:"unconfirmed" jsonschema:"Whether somebody must still confirm the admission."`
	// Digest is the SHA-256, in hexadecimal, of all rows that are not refused, with all that
	// their seals are of.
	Digest string     `json:"digest" jsonschema:"The SHA-256, in hexadecimal, of all rows that are not refused."`
	All    []Admitted `json:"all" jsonschema:"The rows that the first unlock seals."`
	// Confirmed is the last confirmation; zero if there is none.
	Confirmed Confirmation `json:"confirmed,omitzero" jsonschema:"The last confirmation; absent if there is none."`
}

// settingAdmission has the last [Confirmation], in JSON. A setting that is missing, as of
// earlier releases, is one of nobody.
const settingAdmission = "admission"

// digestOf gives the digest of an [Admission].
func digestOf(all []Admitted) string {
	rows := make([][]byte, 0, len(all))
	for i := range all {
		if !all[i].Refused {
			rows = append(rows, all[i].row[:])
		}
	}
	slices.SortFunc(rows, bytes.Compare)
	sum := sha256.Sum256(bytes.Join(rows, nil))
	return hex.EncodeToString(sum[:])
}

// asksNobody says whether there is nobody to confirm: no row but the first settings.
func asksNobody(all []Admitted) bool {
	return !slices.ContainsFunc(all, func(a Admitted) bool {
		return !a.Refused && (a.Kind != AdmittedSetting || a.Detail != firstSettings[a.Name])
	})
}

// admissions lists the settings as they are, and what other packages have.
func (s *Settings) admissions(ctx context.Context) ([]Admitted, error) {
	all, err := s.seals.identities.Admissions(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(firstSettings)) {
		value, err := s.Setting(ctx, name)
		code := fault.CodeOf(err)
		if code == fault.NotFound {
			value, err = firstSettings[name], nil
		}
		if err != nil && code != fault.Tampered && code != fault.MachineKey {
			return nil, err
		}
		all = append(all, Admit(AdmittedSetting, name, value, settingBinding(name, value), err != nil))
	}
	return all, nil
}

// Admission gives who can act and what decides. Errors: fault.Locked while the appliance
// is locked or held and there is an installation, as nobody can tell then.
func (l *Lifecycle) Admission(ctx context.Context) (*Admission, error) {
	installed, err := l.settings.seals.Installed(ctx)
	if err == nil && installed {
		_, err = l.service.view()
	}
	if err != nil {
		return nil, err
	}
	all, err := l.settings.admissions(ctx)
	if err != nil {
		return nil, err
	}
	a := &Admission{Installed: installed, Digest: digestOf(all), All: all}
	if installed {
		a.Confirmed, err = l.settings.confirmation(ctx)
		a.Unconfirmed = a.Confirmed.By == ""
		return a, err
	}
	a.Confirmed = l.confirmation()
	a.Unconfirmed = mayAdmit(all, a.Confirmed) != nil
	return a, nil
}

// confirmation gives the last one of an installation. fault.Locked.
func (s *Settings) confirmation(ctx context.Context) (c Confirmation, err error) {
	text, err := s.Setting(ctx, settingAdmission)
	switch fault.CodeOf(err) {
	case "":
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			return c, fault.Wrapf(fault.Internal, err, "the setting %s cannot be read", settingAdmission)
		}
		return c, nil
	case fault.Tampered: // or of an earlier release
		return c, nil
	}
	return c, err
}

func (s *Settings) setConfirmation(ctx context.Context, c Confirmation) error {
	text, err := json.Marshal(c)
	if err != nil {
		return fault.Wrapf(fault.Internal, err, "a confirmation cannot be written")
	}
	return s.setSetting(ctx, settingAdmission, string(text))
}

// ConfirmAdmission takes a person's word that those who are admitted, as the digest says,
// are the right ones. Before the first unlock, that unlock seals exactly these; one that
// waits for it goes on now. Later it is noted. Errors: fault.AdmissionChanged if they are
// not those of the digest any more; fault.Locked. Who may call it is the caller's to see to.
func (l *Lifecycle) ConfirmAdmission(ctx context.Context, digest, by string) (Confirmation, error) {
	l.deciding.Lock()
	defer l.deciding.Unlock()
	a, err := l.Admission(ctx)
	if err != nil {
		return Confirmation{}, err
	}
	if a.Digest != digest {
		return Confirmation{}, fault.Errorf(fault.AdmissionChanged, "what was confirmed has the digest %.64q, and those who are to be sealed now have %s: somebody was added, removed or changed since; look at them again", digest, a.Digest)
	}
	c := Confirmation{Digest: digest, By: by, At: l.stamp()}
	l.log.Info("those who are admitted are confirmed", "digest", digest, "by", by)
	if a.Installed {
		defer l.settings.seals.Writing()()
		return c, l.settings.setConfirmation(ctx, c)
	}
	l.mu.Lock()
	l.confirmed = c
	l.mu.Unlock()
	if h := l.service.held.Load(); h != nil && fault.CodeOf(h.why) == fault.AdmissionUnconfirmed {
		_, err = l.release(ctx, h)
	}
	return c, err
}

// mayAdmit says whether the first unlock may seal these: somebody has confirmed them, or
// there is nobody. fault.AdmissionUnconfirmed.
func mayAdmit(all []Admitted, c Confirmation) error {
	digest := digestOf(all)
	if c.Digest == digest || c.Digest == "" && asksNobody(all) {
		return nil
	}
	n := len(slices.DeleteFunc(slices.Clone(all), func(a Admitted) bool { return a.Refused || a.Kind == AdmittedSetting }))
	return fault.Errorf(fault.AdmissionUnconfirmed, "the first unlock is about to seal %d users, invitations, API tokens and requests for approval and the settings, and nobody has confirmed them as they are now. "+
		"Look at them in the console or with holdfast admission show, and confirm them there or with holdfast admission confirm --admission %s", n, digest)
}

// checkAdmission gives the error of mayAdmit for those who are there now.
func (l *Lifecycle) checkAdmission(ctx context.Context) error {
	all, err := l.settings.admissions(ctx)
	if err != nil {
		return err
	}
	return mayAdmit(all, l.confirmation())
}

func (l *Lifecycle) confirmation() Confirmation {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.confirmed
}

// CheckAdmission gives the error of a first unlock that nobody has confirmed; nil if there
// is an installation. fault.AdmissionUnconfirmed.
func (l *Lifecycle) CheckAdmission(ctx context.Context) error {
	installed, err := l.settings.seals.Installed(ctx)
	if err != nil || installed {
		return err
	}
	return l.checkAdmission(ctx)
}

// nobody stands for who confirms where there is nobody to admit.
const nobody = "nobody was there"
