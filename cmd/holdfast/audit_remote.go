package main

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"holdfast/appliance/audit"
	"holdfast/web"
)

// auditReader reads an audit log: in a folder, or that of an appliance elsewhere.
type auditReader interface {
	Search(ctx context.Context, q audit.Query) (records []*audit.Record, next string, err error)
	Export(ctx context.Context, q audit.Query, w io.Writer, format string) error
}

// auditReader gives the log in the folder of the arguments, or with --server and
// without a folder the appliance's there.
func (a *admin) auditReader(args []string) auditReader {
	if a.Remote() != nil && len(args) == 0 {
		return remoteAudit{a.Remote()}
	}
	return audit.NewReader(auditDir(args))
}

// remoteAudit asks the admin API.
type remoteAudit struct{ client *web.Client }

func (r remoteAudit) Search(ctx context.Context, q audit.Query) ([]*audit.Record, string, error) {
	v := values(q)
	v.Set("limit", strconv.Itoa(q.Limit))
	if q.Cursor != "" {
		v.Set("cursor", q.Cursor)
	}
	var page web.Records
	err := r.client.Do(ctx, http.MethodGet, "audit/records?"+v.Encode(), nil, &page)
	return page.Records, page.Next, err
}

func (r remoteAudit) Export(ctx context.Context, q audit.Query, w io.Writer, format string) error {
	v := values(q)
	v.Set("format", format)
	return r.client.Download(ctx, "audit/export?"+v.Encode(), w)
}

// values are those of a query as the API has them.
func values(q audit.Query) url.Values {
	v := url.Values{}
	for name, value := range map[string]string{"key_store": q.KeyStore, "key": q.Key, "principal": q.Principal, "kms_request_id": q.KMSRequestID,
		"kind": string(q.Kind), "result": string(q.Result)} {
		if value != "" {
			v.Set(name, value)
		}
	}
	for name, at := range map[string]time.Time{"from": q.From, "to": q.To} {
		if !at.IsZero() {
			v.Set(name, at.Format(time.RFC3339Nano))
		}
	}
	return v
}
