package console

import (
	"net/url"

	"holdfast/appliance/audit"
	"holdfast/appliance/identity"
	"holdfast/web/operation"
)

// life is what the audit log has of what was done to a thing.
type life struct {
	records []audit.NodeRecord
	silent  []operation.SilentNode
	all     string // the URL of the search in the audit log
	audits  bool   // the user may read the audit log
	hasMore bool
}

// lifeOf reads the newest records of a thing; nothing for those who may not read the audit log.
func (p *page) lifeOf(f operation.AuditFilter) (life, error) {
	if !p.may(identity.Audit) {
		return life{}, nil
	}
	q := url.Values{}
	for name, v := range map[string]string{"key_store": f.KeyStore, "key": f.Key, "object": f.Object, "actor": f.Actor, "token": f.Token} {
		if v != "" {
			q.Set(name, v)
		}
	}
	if f.KeyStore != "" {
		f.Life = true
		q.Set("life", "true")
	}
	found, err := read(p, operation.SearchAudit, operation.AuditSearch{AuditFilter: f, Limit: lifeSize})
	if err != nil {
		return life{}, err
	}
	return life{records: found.Records, silent: found.Silent, all: "/audit?" + q.Encode(), audits: true, hasMore: found.Next != ""}, nil
}

// lifeSize is how many records of a thing its page shows.
const lifeSize = 20
