package identity

import "holdfast/appliance/fault"

// Way is how somebody proves who they are when they sign in or call the API.
type Way string

// The ways.
const (
	ByPasskey    Way = "passkey"
	ByPassword   Way = "password" // with a code of the authenticator app, or a recovery code
	ByOIDC       Way = "openid"
	ByToken      Way = "token" // of the API: each request is one
	BySetupCode  Way = "setup_code"
	ByInvitation Way = "invitation"
)

// Ways are all.
var Ways = []Way{ByPasskey, ByPassword, ByOIDC, ByToken, BySetupCode, ByInvitation}

// Result is what came of a proof.
type Result string

// The results.
const (
	Accepted  Result = "ok"
	Refused   Result = "refused"
	Throttled Result = "throttled" // there were too many, and it was not looked at
	Failed    Result = "failed"    // nobody could tell, as while the appliance is locked
)

// Results are all.
var Results = []Result{Accepted, Refused, Throttled, Failed}

// observed tells who counts ([Config.Observe]) what came of a proof.
func (d *Directory) observed(way Way, err *error) {
	if d.Observe == nil {
		return
	}
	switch fault.CodeOf(*err) {
	case "":
		d.Observe(way, Accepted)
	case fault.Throttled:
		d.Observe(way, Throttled)
	case fault.Unauthenticated, fault.Invalid, fault.Exists, fault.NotFound, fault.Forbidden:
		d.Observe(way, Refused)
	default:
		d.Observe(way, Failed)
	}
}
