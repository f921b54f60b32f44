package xks

import (
	"net/http"
	"strings"

	"holdfast/appliance"
)

// route splits the path into prefix, key ID and operation.
func (req *request) route(r *http.Request) (prefix string, ok bool) {
	path := r.URL.Path
	if len(path) > maxURI || r.URL.RawPath != "" {
		return "", false // an encoded path: no XKS path needs that
	}
	if prefix, ok = strings.CutSuffix(path, appliance.XKSPath+"/health"); ok {
		req.operation = operation{appliance.OpHealth, (*API).getHealthStatus}
		req.outcome.Request.Operation = appliance.OpHealth
		return prefix, true
	}
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", false
	}
	rest, word := path[:i], path[i+1:]
	i = strings.LastIndexByte(rest, '/')
	if i < 0 {
		return "", false
	}
	rest, id := rest[:i], rest[i+1:]
	req.operation, ok = keyOperations[word]
	req.outcome.Request.Operation = req.operation.is
	if !ok || !appliance.ValidExternalKeyID(id) {
		return "", false // the ID may be anything: keep it out of the log
	}
	req.outcome.Request.Key = id
	return strings.CutSuffix(rest, appliance.XKSPath+"/keys")
}
