package identity

import "context"

// SetEmail has notices for a user go to an address; empty for nowhere. fault.Invalid,
// fault.NotFound.
func (d *Directory) SetEmail(ctx context.Context, id, email string) (*User, error) {
	if err := validEmail(email); err != nil {
		return nil, err
	}
	return d.change(ctx, id, func(a *Account) error { a.Email = email; return nil }, nil)
}

// CheckEmail gives the error that SetEmail would, and changes nothing.
func (d *Directory) CheckEmail(ctx context.Context, id, email string) error {
	if err := validEmail(email); err != nil {
		return err
	}
	_, err := d.rows.Account(ctx, id)
	return err
}

// Approvers gives the users who may approve what a principal asks and who have a capability, by
// name. Errors as of [Directory.MayApprove].
func (d *Directory) Approvers(ctx context.Context, asker Principal, capability Capability) ([]*User, error) {
	users, err := d.Users(ctx)
	if err != nil {
		return nil, err
	}
	var may []*User
	for _, u := range users {
		if !u.Disabled && !u.Refused && u.Role.May(capability) && d.MayApprove(ctx, u.ID, asker) == nil {
			may = append(may, u)
		}
	}
	return may, nil
}
