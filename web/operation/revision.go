package operation

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// volatile are the members that change while a thing serves, without anybody
// having changed it, and those that only some answers show.
var volatile = []string{"encryptions", "last_used_at", "last_seen_at", "last_sign_in_at", "keys", "credentials", "grants", "versions",
	// These are computed: somebody else may have blocked the key store, or an HSM may be away.
	"standing", "deletion_waits"}

// Revision names the state of what an operation changes, as the API shows it:
// 32 hexadecimal digits in quotes, an entity tag (RFC 9110 section 8.8.3). Sent
// as If-Match it has the operation refused if that state is no more.
func Revision(v any) string {
	text, err := json.Marshal(v)
	var tree any
	if err != nil || json.Unmarshal(text, &tree) != nil {
		return `""` // matches nothing that there is
	}
	text, _ = json.Marshal(settled(tree)) // maps in the order of their names
	sum := sha256.Sum256(text)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
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
