package identity

import (
	"context"
	"encoding/binary"
	"strconv"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/fault"
)

// Carried is what a browser carries for a user from one request to the next, sealed, so that
// any unlocked node can go on with it and nothing is stored for it.
type Carried struct {
	// Purpose says what it is for, and Owner whose it is. Nobody opens it for another.
	Purpose, Owner string
	// ID names it. IDs of later ones are greater, by the second.
	ID string
	// Expires is when it is not opened any more.
	Expires time.Time
	Text    []byte

	ofProcess bool // no other node can open it
}

// MaxCarried is how many bytes [Carried.Text] may have: in Base64 two of them, and what else a
// request has, are less than the 64 KiB that a server takes of its headers.
const MaxCarried = 20 << 10

// ErrCarried is the error for all that cannot be opened: it has expired, or is not the owner's,
// or another process sealed it while the appliance was locked.
var ErrCarried = fault.Errorf(fault.Unauthenticated, "what the browser kept has expired, or belongs to another user")

func (c *Carried) binding() appliance.Binding {
	return appliance.Binding{Purpose: "carried", Fields: []string{c.Purpose, c.Owner, c.ID}}
}

// Carry gives it an ID and a time to expire, and seals it. fault.TooLarge.
func (d *Directory) Carry(c *Carried, lifetime time.Duration) ([]byte, error) {
	if len(c.Text) > MaxCarried {
		return nil, fault.Errorf(fault.TooLarge, "%d bytes; a browser keeps at most %d", len(c.Text), MaxCarried)
	}
	now := d.stamp()
	c.ID, c.Expires = strconv.FormatInt(now.Unix(), 16)+newID(), now.Add(lifetime)
	text := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(c.Text)), uint64(c.Expires.UnixMilli())) //nolint:gosec // it is after 1970
	text = append(text, c.Text...)
	defer clear(text)
	return d.rows.carry(c.binding(), text)
}

// OpenCarried opens what has that purpose, owner and ID. ErrCarried.
func (d *Directory) OpenCarried(purpose, owner, id string, sealed []byte) (*Carried, error) {
	c := &Carried{Purpose: purpose, Owner: owner, ID: id}
	text, ofProcess, err := d.rows.carried(c.binding(), sealed)
	if err != nil {
		return nil, ErrCarried
	}
	if len(text) < 8 {
		return nil, ErrCarried
	}
	c.Expires, c.Text, c.ofProcess = time.UnixMilli(int64(binary.BigEndian.Uint64(text))), text[8:], ofProcess //nolint:gosec // it was made above
	if !d.Now().Before(c.Expires) {
		return nil, ErrCarried
	}
	return c, nil
}

// UseUp has it be good no more, on any node. fault.Exists if that was done before.
func (d *Directory) UseUp(ctx context.Context, c *Carried) error {
	return d.rows.spend(ctx, Spent{ID: "carried " + c.ID, At: d.stamp(), ExpiresAt: c.Expires}, c.ofProcess)
}
