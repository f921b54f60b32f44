package operation

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
)

// Shown is the operation whose answer has the ETag that a change compares with If-Match; nil if
// the change is about nothing that a GET shows.
func (r *Route) Shown() *Route {
	if !r.Changes() || r.Makes != "" || r.Revision == "-" {
		return nil
	}
	for at := cmp.Or(r.Revision, r.Path); at != ""; at = at[:strings.LastIndex(at, "/")] {
		if at != r.Path && at != r.Revision && !strings.HasSuffix(at, "}") {
			continue
		}
		if i := slices.IndexFunc(table, func(get *Route) bool { return get.Path == at && get.Tagged() }); i >= 0 {
			return table[i]
		}
	}
	return nil
}

// volatile are the members that change while a thing serves, without anybody
// having changed it, and those that only some answers show.
var volatile = []string{"encryptions", "last_used_at", "last_seen_at", "last_sign_in_at", "recovery_uses", "keys", "credentials", "grants", "versions",
	// These are computed: somebody else may have blocked the key store, or an HSM may be away.
	"standing", "deletion_waits",
	// It depends on who asks.
	"current"}

// revisionDigits is how many hexadecimal digits name a state.
const revisionDigits = 32

// Revision names the state of what an operation changes, as the API shows it:
// 32 hexadecimal digits in quotes, an entity tag (RFC 9110 section 8.8.3). Sent
// as If-Match it has the operation refused if that state is no more.
func Revision(v any) string {
	if r, ok := v.(revised); ok {
		v = r.revised()
	}
	text, err := json.Marshal(v)
	var tree any
	if err != nil || json.Unmarshal(text, &tree) != nil {
		return `""` // matches nothing that there is
	}
	text, _ = json.Marshal(settled(tree)) // maps in the order of their names
	return `"` + digest(text) + `"`
}

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:revisionDigits/2])
}

// revised is an answer that shows more than what operations change.
type revised interface {
	// revised is what operations compare of it.
	revised() any
}

// EntityTag names an answer, byte by byte, and the state of what it shows: the digits of
// [Revision], a dash, and those of the answer. As If-Match the state alone counts, as
// If-None-Match the whole.
func EntityTag(answer any, text []byte) string {
	return strings.TrimSuffix(Revision(answer), `"`) + "-" + digest(text) + `"`
}

// Exists is the revision that matches whatever there is (RFC 9110 section 13.1.1).
const Exists = "*"

// matches says whether a state is one of those that a caller saw: entity tags, separated by
// commas, or [Exists].
func matches(seen string, now any) bool {
	if seen == Exists {
		return now != nil
	}
	revision := strings.Trim(Revision(now), `"`)
	for tag := range strings.SplitSeq(seen, ",") {
		strong := strings.TrimSpace(tag) // a weak one matches nothing
		if state, _, _ := strings.Cut(strings.Trim(strong, `"`), "-"); strings.HasPrefix(strong, `"`) && state == revision {
			return true
		}
	}
	return false
}

// settled leaves out what is volatile.
func settled(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for _, name := range volatile {
			delete(v, name)
		}
		for name := range v {
			v[name] = settled(v[name])
		}
	case []any:
		for i := range v {
			v[i] = settled(v[i])
		}
	}
	return v
}
