package appliance

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"holdfast/appliance/fault"
	"holdfast/appliance/freshness"
)

// CopyVerdict is what a copy of the state is, as far as it could be verified.
type CopyVerdict string

// The verdicts.
const (
	// CopyPass: all rows match their manifests and seals, and the anchors agree.
	CopyPass CopyVerdict = "pass"
	// CopyFail: something does not match.
	CopyFail CopyVerdict = "fail"
	// CopyIncomplete: nothing is wrong that was seen, and not all could be looked at.
	CopyIncomplete CopyVerdict = "incomplete"
)

// CopyReport is what [VerifyCopy] has found.
type CopyReport struct {
	Verdict      CopyVerdict `json:"verdict"`
	Installation string      `json:"installation,omitempty"`
	// Schema is the version of the copy's schema, KnownSchema this binary's.
	Schema      int64 `json:"schema"`
	KnownSchema int64 `json:"known_schema"`
	// Head is the newest state that the copy names; zero if it has no manifest.
	Head Head `json:"head,omitzero"`
	Rows int  `json:"rows"`
	// Scopes are the installation and each key store.
	Scopes  []CopyScope  `json:"scopes"`
	Anchors []CopyAnchor `json:"anchors"`
	// Damaged are rows that do not match their own seals, the first 1,000 of
	// DamagedRows.
	Damaged     []DamagedRow `json:"damaged,omitempty"`
	DamagedRows int          `json:"damaged_rows"`
	// Findings are what fails, NotVerified what could not be looked at and why, Notes
	// what else a reader should know.
	Findings    []CopyFinding `json:"findings,omitempty"`
	NotVerified []string      `json:"not_verified,omitempty"`
	Notes       []string      `json:"notes,omitempty"`
}

// CopyScope is the sets of the installation, or of a key store.
type CopyScope struct {
	// KeyStore is its ID, and Name its name if that could be read; both are empty for the
	// installation.
	KeyStore string `json:"key_store,omitempty"`
	Name     string `json:"name,omitempty"`
	// Sets is how many sets it has. NotMatching are those whose rows are not those of
	// their manifests, if that was judged.
	Sets        int      `json:"sets"`
	NotMatching []string `json:"not_matching,omitempty"`
}

// CopyAnchor is what a place outside of the database says of the state.
type CopyAnchor struct {
	Name string `json:"name"`
	// Result is "agrees", "disagrees" or "not compared".
	Result string `json:"result"`
	// Since is the time of the newest thing on which the two agree.
	Since time.Time `json:"since,omitzero"`
	// Detail is what was compared, or why nothing was.
	Detail string `json:"detail"`
}

// The results of anchors.
const (
	AnchorAgrees      = "agrees"
	AnchorDisagrees   = "disagrees"
	AnchorNotCompared = "not compared"
)

// CopyFinding is what fails.
type CopyFinding struct {
	Code    fault.Code `json:"code"`
	Message string     `json:"message"`
}

// CopyOptions are what a copy is verified with.
type CopyOptions struct {
	// Open opens the copy, after the anchor was read: so the anchor is not ahead of a
	// copy that is made now.
	Open func(ctx context.Context) (OfflineRows, error)
	// Ring opens the keys of the installation; nil without the HSM.
	Ring Keyring
	// Anchor is this machine's; nil if there is none, and NoAnchor says why.
	Anchor   Anchor
	NoAnchor string
	// Heads are the anchors that know heads of the state, such as the audit log in the copy.
	Heads []HeadAnchor
	// ProveLog says whether the audit log of the copy contains a head, and since when;
	// nil if there is no log.
	ProveLog func(head string) (since time.Time, err error)
	// Others, if given, hands the rows that other packages keep to f, after all rows are
	// in this binary's schema.
	Others func(ctx context.Context, f func(kind, id string, b Binding, seal []byte) error) error
}

// VerifyCopy verifies a copy of the state offline, and changes nothing. What is wrong with
// the copy is in the report. Its error is of what it is verified with, such as the HSM,
// or of a copy that is not there.
func VerifyCopy(ctx context.Context, o CopyOptions) (*CopyReport, error) {
	v := &copyVerification{o: o, report: &CopyReport{Scopes: []CopyScope{}, Anchors: []CopyAnchor{}}}
	if err := v.run(ctx); err != nil {
		return nil, err
	}
	r := v.report
	switch {
	case len(r.Findings) > 0:
		r.Verdict = CopyFail
	case len(r.NotVerified) > 0:
		r.Verdict = CopyIncomplete
	default:
		r.Verdict = CopyPass
	}
	return r, nil
}

type copyVerification struct {
	o      CopyOptions
	report *CopyReport
	before freshness.Reading // what the anchor said before the copy was opened
	heads  headAnchors       // what the others knew then
	rows   OfflineRows
	in     *Installation
	early  *earlyStateKey // of a copy of before there were manifests
	opened bool           // the state key is in the keyring
}

// found notes an error that is about the copy, and gives any other.
func (v *copyVerification) found(err error) error {
	switch code := fault.CodeOf(err); code {
	case fault.StateChanged, fault.StateSchema, fault.StateUnsealed, fault.StateRolledBack, fault.StateAnchor, fault.StateLoss,
		fault.StateDamaged, fault.StateForeign, fault.StateMissing, fault.AuditRewritten, fault.AuditCheckpointForged, fault.AuditSegmentMissing, fault.AuditSegment, fault.AuditTree, fault.Tampered:
		v.report.Findings = append(v.report.Findings, CopyFinding{code, fault.ReasonOf(err)})
		return nil
	default:
		return err
	}
}

func (v *copyVerification) notVerified(format string, args ...any) {
	v.report.NotVerified = append(v.report.NotVerified, fmt.Sprintf(format, args...))
}

func (v *copyVerification) note(format string, args ...any) {
	v.report.Notes = append(v.report.Notes, fmt.Sprintf(format, args...))
}

func (v *copyVerification) run(ctx context.Context) (err error) {
	if a := v.o.Anchor; a != nil {
		if v.before, err = readAnchor(ctx, a); err != nil {
			return err
		}
	}
	for _, a := range v.o.Heads {
		known := knownHead{HeadAnchor: a}
		known.seen, known.err = a.Seen(ctx)
		v.heads = append(v.heads, known)
	}
	if v.rows, err = v.o.Open(ctx); err != nil {
		return v.found(err)
	}
	if certain, loss := v.rows.Loss(); certain {
		_ = v.found(loss)
	}
	v.in, err = v.rows.StateKey(ctx)
	if fault.CodeOf(err) == fault.NotFound {
		err = fault.Errorf(fault.StateMissing, "the database has no installation: it is new, or was emptied")
	}
	if err != nil {
		return v.found(err)
	}
	v.report.Installation = v.in.ID
	key, err := v.openKey(ctx)
	if err != nil {
		return v.found(err)
	}
	if key != nil {
		defer key.Wipe()
	}
	survey, err := v.rows.Survey(ctx, key)
	if err != nil {
		return v.found(err)
	}
	v.manifests(survey)
	for _, compare := range []func(context.Context, *Survey) error{v.compareAnchor, v.compareHeads, v.compareLog, v.judgeLoss, v.lookAtRows} {
		if err := v.found(compare(ctx, survey)); err != nil {
			return err
		}
	}
	return nil
}

// knownHead is an anchor as it was before the copy was opened.
type knownHead struct {
	HeadAnchor
	seen SeenHead
	err  error
}

func (k knownHead) Seen(context.Context) (SeenHead, error) { return k.seen, k.err }

func readAnchor(ctx context.Context, a Anchor) (freshness.Reading, error) {
	r := freshness.Reading{Name: a.Name()}
	var err error
	r.Count, err = a.Count(ctx)
	if fault.CodeOf(err) == fault.NotFound {
		return r, nil
	}
	if err != nil {
		return r, fault.Wrapf(fault.StateAnchor, err, "the anchor %s cannot be read", r.Name)
	}
	r.Made = true
	return r, nil
}

// openKey gives the key of the manifests; nil without the HSM.
func (v *copyVerification) openKey(ctx context.Context) (key ManifestKey, err error) {
	if v.o.Ring == nil {
		v.notVerified("without the HSM no row and no manifest can be authenticated: all that is said here is what the copy says of itself")
		return nil, nil
	}
	if v.early, err = openStateKey(ctx, v.o.Ring, v.in); err != nil {
		return nil, err
	}
	v.opened = true
	return v.o.Ring.ManifestKey(v.in.ID)
}

// manifests says what the sets are.
func (v *copyVerification) manifests(s *Survey) {
	r := v.report
	r.Schema, r.KnownSchema, r.Head, r.Rows = s.Schema, s.Knows, s.Head, s.Rows
	if s.Schema < s.Knows {
		v.note("the copy is of an earlier release: its schema is %d, and this program's is %d", s.Schema, s.Knows)
	}
	switch {
	case s.Head.Sequence > 0:
	case v.early != nil:
		v.notVerified("the copy is of before there were manifests: rows that are missing or were put back cannot be told")
		return
	case v.opened:
		_ = v.found(fault.Errorf(fault.StateUnsealed, "the database has an installation, and lacks the manifest that authenticates its rows: it was removed"))
		return
	default:
		v.notVerified("the copy has no manifest; with the HSM it can be told whether it must have one")
		return
	}
	if !s.Chained {
		_ = v.found(fault.Errorf(fault.StateChanged, "the history of manifests does not have the newest one: it was changed or removed"))
	}
	if s.Judged && s.HeadSchema != s.Schema {
		v.note("the manifests are of schema %d: the release with schema %d has not opened the state yet", s.HeadSchema, s.Schema)
	}
	v.scopes(s)
}

// scopes counts the sets of the installation and of each key store.
func (v *copyVerification) scopes(s *Survey) {
	of := map[string]*CopyScope{}
	var wrong int
	for _, set := range s.Sets {
		id, _, _ := strings.Cut(set.Scope, "/")
		if of[id] == nil {
			of[id] = &CopyScope{KeyStore: id}
		}
		of[id].Sets++
		if s.Judged && !set.Matches {
			wrong++
			of[id].NotMatching = append(of[id].NotMatching, set.Scope)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(of)) {
		v.report.Scopes = append(v.report.Scopes, *of[id])
	}
	if s.Why != nil {
		_ = v.found(s.Why)
	}
	if root := of[ScopeInstallation]; root != nil {
		wrong -= len(root.NotMatching)
	}
	if wrong > 0 {
		_ = v.found(fault.Errorf(fault.StateChanged, "rows of %d sets, each a key store's own or a part of its keys, do not match their manifests: one was changed, removed, added or put back by something else than Holdfast", wrong))
	}
}

func (v *copyVerification) anchor(name, result string, since time.Time, format string, args ...any) {
	v.report.Anchors = append(v.report.Anchors, CopyAnchor{Name: name, Result: result, Since: since, Detail: fmt.Sprintf(format, args...)})
}

// uncompared notes an anchor that the state has and that was not compared.
func (v *copyVerification) uncompared(name, format string, args ...any) {
	why := fmt.Sprintf(format, args...)
	v.anchor(name, AnchorNotCompared, time.Time{}, "%s", why)
	v.notVerified("%s: %s", name, why)
}

// compareAnchor holds the head against this machine's anchor.
func (v *copyVerification) compareAnchor(ctx context.Context, s *Survey) error {
	h := s.Head
	if h.Sequence == 0 {
		return nil
	}
	if v.o.Anchor == nil {
		if h.Anchor != "" {
			v.uncompared(h.Anchor, "%s", v.o.NoAnchor)
		}
		return nil
	}
	r := v.before
	verdict := decide(h, r)
	if verdict == freshness.Beyond { // it may have been raised since
		after, err := readAnchor(ctx, v.o.Anchor)
		if err != nil {
			return err
		}
		if r, verdict = after, decide(h, after); verdict == freshness.Older {
			verdict = freshness.Current
		}
	}
	switch verdict {
	case freshness.First:
	case freshness.Unnamed:
		v.uncompared(r.Name, "the state names no anchor, and this machine's TPM stands at %d: here it would be held", r.Count)
	case freshness.Foreign:
		v.uncompared(h.Anchor, "another machine's TPM: this machine's is %s", r.Name)
	case freshness.Current:
		v.anchor(r.Name, AnchorAgrees, h.At, "it stands at %d, and the state says %d", r.Count, h.Count)
	default:
		err := notFresh(verdict, h, r)
		v.anchor(r.Name, AnchorDisagrees, time.Time{}, "it stands at %d, and the state says %d", r.Count, h.Count)
		return err
	}
	return nil
}

// compareHeads holds the head against what the other anchors know.
func (v *copyVerification) compareHeads(ctx context.Context, s *Survey) error {
	if s.Head.Sequence == 0 {
		return nil
	}
	for _, a := range v.heads {
		stands := relationTo(ctx, a, s.Head, func(h Head) (bool, error) { return v.rows.Past(ctx, h) })
		known := stands.seen.Head
		switch {
		case stands.err != nil && fault.CodeOf(stands.err) != fault.StateRolledBack:
			return stands.err
		case stands.err != nil:
			v.anchor(a.Name(), AnchorDisagrees, time.Time{}, "it knows the state number %d of %s", known.Sequence, known.At.Format(time.RFC3339))
			_ = v.found(stands.err)
		case known.Sequence > 0:
			v.anchor(a.Name(), AnchorAgrees, stands.seen.Since, "it knows the state number %d of %s", known.Sequence, known.At.Format(time.RFC3339))
		}
	}
	return nil
}

// auditLogAnchor names the records of the audit log, of which the state keeps a head.
const auditLogAnchor = "records of the audit log"

// compareLog holds the audit log of the copy against the head that the state keeps of it.
func (v *copyVerification) compareLog(ctx context.Context, _ *Survey) error {
	row, err := v.rows.AuditHead(ctx)
	if fault.CodeOf(err) == fault.NotFound {
		return nil // with a manifest that matches, none was kept
	}
	if err != nil {
		return err
	}
	if v.opened {
		h := auditHead{}
		if err := v.o.Ring.Verify(h.binding(v.in.ID, row.Value), row.Seal); err != nil {
			return fault.Wrapf(fault.AuditRewritten, err, "the head of the audit log in the database does not match its seal: it was changed by hand")
		}
	}
	if v.o.ProveLog == nil {
		v.uncompared(auditLogAnchor, "it is not in the copy")
		return nil
	}
	since, err := v.o.ProveLog(row.Value)
	if err != nil {
		v.anchor(auditLogAnchor, AnchorDisagrees, time.Time{}, "%s", fault.ReasonOf(err))
		return err
	}
	v.note("the signatures of the audit log's checkpoints are not checked here: holdfast audit verify does that")
	v.anchor(auditLogAnchor, AnchorAgrees, since, "it contains the head that the state keeps of it")
	return nil
}

// judgeLoss judges a write-ahead log whose last change may be missing, and whether anything
// says that the state is the newest.
func (v *copyVerification) judgeLoss(_ context.Context, s *Survey) error {
	agrees := func(a CopyAnchor) bool { return a.Result == AnchorAgrees }
	certain, loss := v.rows.Loss()
	if loss != nil && !certain && !slices.ContainsFunc(v.report.Anchors, func(a CopyAnchor) bool { return agrees(a) && a.Name == s.Head.Anchor }) {
		return loss
	}
	if s.Head.Sequence > 0 && !slices.ContainsFunc(v.report.Anchors, agrees) {
		v.notVerified("no anchor agrees with the state: nothing says that it is the newest")
	}
	return nil
}

// lookAtRows holds each row against its own seal, and names those that do not match.
func (v *copyVerification) lookAtRows(ctx context.Context, _ *Survey) error {
	if !v.opened {
		return nil
	}
	store, err := v.rows.Migrated(ctx)
	if err != nil {
		return err
	}
	found, err := inspect(ctx, store, v.o.Ring, false)
	if err != nil {
		return err
	}
	i := &inspection{report: found}
	if v.o.Others != nil && (v.early == nil || v.early.sealed) {
		err := v.o.Others(ctx, func(kind, id string, b Binding, seal []byte) error {
			_, state := splitSeals(seal)
			_, err := i.found(DamagedRow{Kind: kind, ID: id}, v.o.Ring.Verify(b, state))
			return err
		})
		if err != nil {
			return err
		}
	}
	v.report.Damaged, v.report.DamagedRows = found.Damaged, found.DamagedRows
	if found.DamagedRows > 0 {
		_ = v.found(fault.Errorf(fault.Tampered, "%d rows do not match their own seals: they were changed by hand, or are damaged", found.DamagedRows))
	}
	stores, err := store.KeyStores(ctx)
	if err != nil {
		return err
	}
	for _, ks := range stores {
		for n := range v.report.Scopes {
			if s := &v.report.Scopes[n]; s.KeyStore == ks.ID {
				s.Name = ks.Name
			}
		}
	}
	return nil
}
