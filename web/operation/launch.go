package operation

import (
	"context"
	"net/http"

	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
)

// Launches are the launch files of this machine: the one in force, and the next one.
type Launches interface {
	// Launch is what there is.
	Launch(ctx context.Context) (LaunchDetail, error)
	// CheckLaunch says what the document is, and gives the error that InstallLaunch would. It
	// changes nothing. Errors: those that the next start would be locked with.
	CheckLaunch(ctx context.Context, document string) (LaunchFile, error)
	// InstallLaunch has the document be the one of the next start.
	InstallLaunch(ctx context.Context, document string) error
	// LookAtTokens looks for the tokens that a launch file names, signed or not, on a machine
	// that has none: without a PIN, within seconds, one look at a time. Errors: fault.LaunchFile
	// if this machine cannot use the file; fault.Conflict if the machine has one, or another look
	// has not ended; fault.Timeout if the module does not answer.
	LookAtTokens(ctx context.Context, file string) ([]LookedToken, error)
}

// LookedToken is what a look at a token came to.
type LookedToken struct {
	// Module is the name of its PKCS#11 library, and Selected says which of its tokens was looked for.
	Module, Selected string
	// What the token says about itself.
	Label, Serial, Manufacturer, Model, Firmware string
	// Wrong says why it cannot be used, and what to do; empty if it can.
	Wrong string
}

// LaunchDocument is a launch file with its owner's signature, as it travels.
type LaunchDocument struct {
	Document string `json:"document" longest:"16384" jsonschema:"The launch document: what is in the file that holdfast launch sign --user-data wrote. At most 16384 characters." example:"{\"holdfast\":2,\"launch\":\"H4sI\",\"signature\":{}}"`
	// Sets says in a request for approval what the launch file is.
	Sets []string `json:"sets,omitempty" items:"100" each:"16384" jsonschema:"What the launch file sets, in sentences, in a request for approval. The appliance writes it; what is given here is ignored."`
}

// LaunchFile is a launch file that its owner has signed.
type LaunchFile struct {
	SHA256  string   `json:"sha256" jsonschema:"The SHA-256 of the launch file, in hexadecimal, as evidence names it."`
	Version uint64   `json:"version" jsonschema:"The version that the owner has signed." example:"3"`
	Owner   string   `json:"owner" jsonschema:"The ID of the owner's key."`
	Sets    []string `json:"sets" jsonschema:"What the launch file sets, in sentences."`
}

// LaunchDetail is what a machine has of launch files.
type LaunchDetail struct {
	// Required says that the image asks for one.
	Required bool `json:"required" jsonschema:"Whether the image asks for a launch file."`
	// InForce is the one that this machine has started with, Next the one of its next start;
	// nil if there is none, or if it is the same one.
	InForce *LaunchFile `json:"in_force,omitempty" jsonschema:"The launch file that the machine has started with; absent if there is none that counts."`
	Next    *LaunchFile `json:"next,omitempty" jsonschema:"The launch file of the next start of the machine; absent if it is the same one."`
	// Why says, with its code, why none counts, or why the one of the next start would not.
	Why string `json:"why,omitempty" jsonschema:"Why no launch file counts, or why the one of the next start would not, with its code; absent if all is well."`
	// Ignored says, with its code, what was found and does not count.
	Ignored string `json:"ignored,omitempty" jsonschema:"What else was found at the start and does not count, with its code; absent if nothing was."`
}

func launchDetail(ctx context.Context, c *Caller) (LaunchDetail, error) {
	if c.Launches == nil {
		return LaunchDetail{}, nil
	}
	return c.Launches.Launch(ctx)
}

func checkLaunch(ctx context.Context, c *Caller, in LaunchDocument) (LaunchFile, error) {
	if c.Launches == nil {
		return LaunchFile{}, fault.Errorf(fault.Conflict, "this appliance takes no launch file")
	}
	return c.Launches.CheckLaunch(ctx, in.Document)
}

// LookAtTokens is that of [Launches]. It is no operation: who has the setup code is no user yet,
// and it changes nothing.
func (p *Performer) LookAtTokens(ctx context.Context, file string) ([]LookedToken, error) {
	if p.Launches == nil {
		return nil, fault.Errorf(fault.Conflict, "this appliance takes no launch file")
	}
	return p.Launches.LookAtTokens(ctx, file)
}

// The operations on the launch file of this machine.
var (
	ShowLaunch = define(Operation[Nothing, LaunchDetail]{
		Route: Route{ID: "launch", Method: http.MethodGet, Path: "/launch", Capability: identity.See,
			Words: "Show launch file", Summary: "What the owner of this machine has set, and what is set from its next start on"},
		Run: func(ctx context.Context, c *Caller, _ Nothing) (LaunchDetail, error) { return launchDetail(ctx, c) },
	})
	InstallLaunch = define(Operation[LaunchDocument, LaunchDetail]{
		Route: Route{ID: "installLaunch", Method: http.MethodPut, Path: "/launch", Capability: identity.Administer, Outside: true, Effects: Decides | StopsService, WhileLocked: true, Urgency: Ordinary,
			Words: "Install launch file", Summary: "Have this machine start with another launch file, which its owner has signed, from the next time on"},
		Subject: func(ctx context.Context, c *Caller, _ LaunchDocument) any {
			now, err := launchDetail(ctx, c)
			return found(&now, err)
		},
		Check: func(ctx context.Context, c *Caller, in LaunchDocument) error {
			_, err := checkLaunch(ctx, c, in)
			return err
		},
		Filed: func(ctx context.Context, c *Caller, in, stored LaunchDocument) (LaunchDocument, error) {
			file, err := checkLaunch(ctx, c, in)
			stored.Sets = file.Sets
			return stored, err
		},
		Run: func(ctx context.Context, c *Caller, in LaunchDocument) (LaunchDetail, error) {
			if _, err := checkLaunch(ctx, c, in); err != nil {
				return LaunchDetail{}, err
			}
			if err := c.Launches.InstallLaunch(ctx, in.Document); err != nil {
				return LaunchDetail{}, err
			}
			return c.Launches.Launch(ctx)
		},
	})
)
