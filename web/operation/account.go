package operation

import (
	"context"
	"encoding/json"
	"net/http"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// Account is who calls.
type Account struct {
	identity.Principal
	// User is empty for the bearer of an API token and for root on the machine.
	User *identity.User `json:"user,omitempty" jsonschema:"The user who calls; absent for the bearer of an API token and for root on the machine."`
	// Capabilities are what the role may do.
	Capabilities []identity.Capability `json:"capabilities" jsonschema:"What the caller's role may do."`
}

func (a *Account) revised() any { return a.User }

// CeremonyAnswer is what an authenticator says (WebAuthn Level 3,
// PublicKeyCredential in JSON), for a ceremony that was begun.
type CeremonyAnswer struct {
	Ceremony string          `json:"ceremony" record:"-" jsonschema:"The ceremony value that the beginning of the ceremony gave." example:"what beginPasskey gave"`
	Response json.RawMessage `json:"response" record:"-" jsonschema:"The PublicKeyCredential of the authenticator, as JSON (WebAuthn Level 3)." example:"{}"`
	// Name is the new passkey's; only for one.
	Name string `json:"name,omitempty" jsonschema:"The name of the new passkey; only when a passkey is added." example:"Alice's laptop" longest:"64"`
}

// Proof is a password with the present code of the authenticator app, or a
// recovery code.
type Proof struct {
	Password string `json:"password" record:"-" jsonschema:"The user's password." example:"correct horse battery staple" longest:"256"`
	Code     string `json:"code" record:"-" jsonschema:"The present code of the authenticator app, or a recovery code where one is accepted." example:"123456" longest:"64"`
}

// RecoveryCodes are shown once.
type RecoveryCodes struct {
	Codes []string `json:"codes" jsonschema:"The new recovery codes. Each works once, and they are shown this once."`
}

func (RecoveryCodes) withoutSecret() any { return nil }

// NewTOTP is the secret of an authenticator app, shown once.
type NewTOTP struct{ identity.TOTP }

func (NewTOTP) withoutSecret() any { return nil }

// PasskeyName names a passkey by the ID.
type PasskeyName struct {
	Passkey string `path:"passkey" longest:"2048" json:"-" about:"The ID of the passkey."`
}

// typedName is the name of the passkey.
func (n PasskeyName) typedName(now any) string {
	if k, ok := now.(*ownPasskey); ok {
		return k.Name
	}
	return ""
}

// ownPasskey is a passkey of the one who calls.
type ownPasskey struct {
	identity.Passkey
	last bool // there is no other
}

// user gives the ID of the user who calls.
func (c *Caller) user() (string, error) {
	if c.Who.UserID == "" {
		return "", fault.Errorf(fault.Conflict, "%s is no user of the console, and has no account", c.Who.Name)
	}
	return c.Who.UserID, nil
}

// self gives the user who calls. fault.Unauthenticated if there is none any more.
func (c *Caller) self(ctx context.Context) (*identity.User, error) {
	u, err := c.Identity.User(ctx, c.Who.UserID)
	if fault.CodeOf(err) == fault.NotFound {
		err = fault.Errorf(fault.Unauthenticated, "your user was removed: ask an administrator for an invitation")
	}
	return u, err
}

// passkey gives one of a user. fault.NotFound.
func (c *Caller) passkey(ctx context.Context, user string, in PasskeyName) (ownPasskey, error) {
	u, err := c.Identity.User(ctx, user)
	if err != nil {
		return ownPasskey{}, err
	}
	k, err := named(u.Passkeys, nil, func(k identity.Passkey) bool { return k.ID == in.Passkey }, "you have no passkey of that ID")
	return ownPasskey{k, len(u.Passkeys) == 1}, err
}

// own makes the function of an operation of a user on their own account.
func own[In, Out any](run func(ctx context.Context, c *Caller, user string, in In) (Out, error)) func(context.Context, *Caller, In) (Out, error) {
	return func(ctx context.Context, c *Caller, in In) (out Out, err error) {
		id, err := c.user()
		if err != nil {
			return out, err
		}
		if out, err = run(ctx, c, id, in); fault.CodeOf(err) == fault.NotFound {
			if _, gone := c.self(ctx); gone != nil {
				err = gone
			}
		}
		return out, err
	}
}

// The operations of users on their own account. Proofs of presence wait for
// nothing: an urgent operation may need one.
var (
	ShowAccount = define(Operation[Nothing, *Account]{
		Route: Route{ID: "account", Method: http.MethodGet, Path: "/account", Capability: identity.Self,
			Words: "Show account", Summary: "Who calls, and what their role may do"},
		Run: func(ctx context.Context, c *Caller, _ Nothing) (*Account, error) {
			a := &Account{Principal: c.Who, Capabilities: c.Who.Role.Capabilities()}
			if c.Who.UserID == "" {
				return a, nil
			}
			var err error
			a.User, err = c.self(ctx)
			return a, err
		},
	})
	ProvePassword = define(Operation[Proof, Nothing]{
		Route: Route{ID: "provePassword", Method: http.MethodPost, Path: "/account/prove/password", Capability: identity.Self, WhileLocked: true, Urgency: Independent,
			Words: "Prove presence by password", Summary: "Prove that one is present, by password and code"},
		Subject: apart[Proof],
		Run: own(func(ctx context.Context, c *Caller, _ string, in Proof) (Nothing, error) {
			recovery, err := c.Identity.ProvePassword(ctx, c.Who, in.Password, in.Code, identity.Client{Address: c.Remote})
			if err == nil && recovery {
				err = c.Event(ctx, RecoveryCodeUsed, c.Who.Name, "", c.Remote, nil)
			}
			return Nothing{}, err
		}),
	})
	BeginProvePasskey = define(Operation[Nothing, identity.Ceremony]{
		Route: Route{ID: "beginProvePasskey", Method: http.MethodPost, Path: "/account/prove/passkey/begin", Capability: identity.Self, Outside: true, WhileLocked: true, Urgency: Independent,
			Words: "Begin to prove presence by passkey", Summary: "Begin to prove that one is present, by a passkey"},
		Subject: apart[Nothing],
		Run: own(func(ctx context.Context, c *Caller, _ string, _ Nothing) (identity.Ceremony, error) {
			return c.Identity.BeginProvePasskey(ctx, c.Who)
		}),
	})
	ProvePasskey = define(Operation[CeremonyAnswer, Nothing]{
		Route: Route{ID: "provePasskey", Method: http.MethodPost, Path: "/account/prove/passkey", Capability: identity.Self, WhileLocked: true, Urgency: Independent,
			Words: "Prove presence by passkey", Summary: "Prove that one is present, by a passkey"},
		Subject: apart[CeremonyAnswer],
		Run: own(func(ctx context.Context, c *Caller, _ string, in CeremonyAnswer) (Nothing, error) {
			return Nothing{}, c.Identity.FinishProvePasskey(ctx, c.Who, in.Ceremony, in.Response, identity.Client{Address: c.Remote})
		}),
	})
	BeginPasskey = define(Operation[Nothing, identity.Ceremony]{
		Route: Route{ID: "beginPasskey", Method: http.MethodPost, Path: "/account/passkeys/begin", Capability: identity.Self, Outside: true, Effects: GivesAccess, Alone: ownAccount, Urgency: Independent,
			Words: "Set up passkey", Summary: "Begin to add a passkey"},
		Subject: apart[Nothing],
		Run: own(func(ctx context.Context, c *Caller, id string, _ Nothing) (identity.Ceremony, error) {
			return c.Identity.BeginAddPasskey(ctx, id)
		}),
	})
	AddPasskey = define(Operation[CeremonyAnswer, *identity.Passkey]{
		Route: Route{ID: "addPasskey", Method: http.MethodPost, Path: "/account/passkeys", Makes: "/account/passkeys/{id}", Capability: identity.Self, Effects: GivesAccess, Alone: ownAccount, Urgency: Ordinary,
			Words: "Add passkey", Summary: "Add a passkey"},
		Subject: apart[CeremonyAnswer],
		Run: own(func(ctx context.Context, c *Caller, id string, in CeremonyAnswer) (*identity.Passkey, error) {
			return c.Identity.FinishAddPasskey(ctx, id, in.Ceremony, in.Name, in.Response)
		}),
	})
	ShowPasskey = define(Operation[PasskeyName, identity.Passkey]{
		Route: Route{ID: "showPasskey", Method: http.MethodGet, Path: "/account/passkeys/{passkey}", Capability: identity.Self, Conflicts: true,
			Words: "Show passkey", Summary: "One of one's own passkeys"},
		Run: own(func(ctx context.Context, c *Caller, user string, in PasskeyName) (identity.Passkey, error) {
			k, err := c.passkey(ctx, user, in)
			return k.Passkey, err
		}),
	})
	RemovePasskey = define(Operation[PasskeyName, Nothing]{
		Route: Route{ID: "removePasskey", Method: http.MethodDelete, Path: "/account/passkeys/{passkey}", Capability: identity.Self, Effects: TakesAccess, ConfirmedIf: "if it is the last passkey", Alone: ownAccount, Urgency: Urgent,
			Words: "Remove passkey", Summary: "Remove a passkey; not the last way to sign in"},
		Subject: func(ctx context.Context, c *Caller, in PasskeyName) any {
			k, err := c.passkey(ctx, c.Who.UserID, in)
			return found(&k, err)
		},
		Check: func(ctx context.Context, c *Caller, in PasskeyName) error {
			id, err := c.user()
			if err != nil {
				return err
			}
			return c.Identity.CheckRemovePasskey(ctx, id, in.Passkey)
		},
		Confirmed: func(now any, _ PasskeyName) bool {
			k, known := now.(*ownPasskey)
			return !known || k.last
		},
		Warning: func(*Caller, any, PasskeyName) string {
			return "This is your last passkey. You cannot sign in by passkey again until you add another."
		},
		Run: own(func(ctx context.Context, c *Caller, id string, in PasskeyName) (Nothing, error) {
			return Nothing{}, c.Identity.RemovePasskey(ctx, id, in.Passkey)
		}),
	})
	BeginPassword = define(Operation[Nothing, NewTOTP]{
		Route: Route{ID: "beginPassword", Method: http.MethodPost, Path: "/account/password/begin", Capability: identity.Self, Outside: true, Effects: GivesAccess, Alone: ownAccount, Urgency: Independent,
			Words: "Set up password", Summary: "Begin to set a password: a new secret for an authenticator app"},
		Subject: apart[Nothing],
		Run: own(func(ctx context.Context, c *Caller, id string, _ Nothing) (NewTOTP, error) {
			t, err := c.Identity.BeginPassword(ctx, id)
			return NewTOTP{t}, err
		}),
	})
	SetPassword = define(Operation[Proof, Nothing]{
		Route: Route{ID: "setPassword", Method: http.MethodPost, Path: "/account/password", Capability: identity.Self, Effects: GivesAccess, Alone: ownAccount, Urgency: Ordinary,
			Words: "Set password", Summary: "Set password and authenticator app together"},
		Subject: apart[Proof],
		Run: own(func(ctx context.Context, c *Caller, id string, in Proof) (Nothing, error) {
			return Nothing{}, c.Identity.FinishPassword(ctx, id, in.Password, in.Code)
		}),
	})
	NewRecoveryCodes = define(Operation[Nothing, RecoveryCodes]{
		Route: Route{ID: "newRecoveryCodes", Method: http.MethodPost, Path: "/account/recovery-codes", Capability: identity.Self, Effects: GivesAccess, Alone: ownAccount, Urgency: Ordinary,
			Words: "Create recovery codes", Summary: "Make new recovery codes; those before are void"},
		Subject: apart[Nothing],
		Run: own(func(ctx context.Context, c *Caller, id string, _ Nothing) (RecoveryCodes, error) {
			codes, err := c.Identity.NewRecoveryCodes(ctx, id)
			return RecoveryCodes{codes}, err
		}),
	})
)
