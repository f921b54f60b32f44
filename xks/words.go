package xks

import (
	"net/http"

	"holdfast/appliance"
)

// protocol is this front end, as the domain knows it.
type protocol struct{}

// Words implements [appliance.Protocol], in the specification's words.
func (protocol) Words(o *appliance.Outcome) appliance.Words {
	w := appliance.Words{Protocol: "xks", Operation: operationName(o.Request.Operation), Status: http.StatusOK}
	if o.Err != nil {
		name, status := nameOf(o.Err)
		w.Error, w.Status = string(name), status
	}
	return w
}

// Limits implements [appliance.Protocol]. They are what the specification asks every
// proxy to support, and no more.
func (protocol) Limits() appliance.Limits {
	return appliance.Limits{Data: maxPlaintext, AAD: maxAAD}
}

// operationName is the specification's name of an operation; empty for none.
func operationName(op appliance.Operation) string {
	switch op {
	case appliance.OpHealth:
		return "GetHealthStatus"
	case appliance.OpGetAttributes:
		return "GetKeyMetadata"
	}
	return string(op) // Encrypt, Decrypt
}
