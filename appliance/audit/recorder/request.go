package recorder

import (
	"context"

	"holdfast/appliance"
	"holdfast/appliance/audit"
)

// RecordOutcome implements [appliance.Recorder]: it records a request, in the words
// of its front end.
func (r *Recorder) RecordOutcome(ctx context.Context, o *appliance.Outcome) error {
	return r.Record(ctx, ofRequest(o))
}

func ofRequest(o *appliance.Outcome) *audit.Record {
	words, about := o.Words(), &o.Request
	r := &audit.Record{Kind: audit.Kind(words.Protocol), Operation: words.Operation, Result: audit.Failed, Error: words.Error,
		KeyStore: about.KeyStore, Key: about.Key, Version: uint64(o.KeyVersion), Principal: about.Principal,
		KMSRequestID: o.RequestID, KMSKeyARN: about.KMSKeyARN, KMSOperation: about.KMSOperation, ViaService: about.ViaService,
		SourceVPC: about.SourceVPC, SourceVPCE: about.SourceVPCE,
		Policies: o.Policies, Actor: o.Credential, Remote: o.Remote, DurationUS: o.Took.Microseconds()}
	switch o.Result() {
	case appliance.ResultDone:
		r.Result = audit.Allowed
	case appliance.ResultDenied:
		r.Result = audit.Denied
	}
	return r
}
