package appliance

import (
	"context"
	"sync"
)

// Administration is the part that makes, changes and removes key stores,
// credentials, keys, grants and blocks. The operations are few and slow compared
// with those of KMS, so one lock serializes them; each takes effect on requests
// that start after it returns. They are in the files of what they are about.
type Administration struct {
	ground
	store      AdministeredRows
	service    *Service
	settings   *Settings
	deleting   func(ctx context.Context, keyStore, keyID string) error
	destroying func(ctx context.Context, keyStore string, o *TokenObject) error
	// time is what cannot be undone rests on.
	time     *witnessedTime
	rotating func(ctx context.Context, keyStore, keyID string, version uint32) error

	ownership *ownership
	// awaited are the objects in the HSM that wait for their destruction, by label.
	// admin guards it.
	awaited map[string]awaited
	// said is what the log was told last of things that are tried every minute.
	said map[string]string

	// admin serializes operations, which read a row, change it and write it back.
	// Requests of KMS never take it, but for a rotation.
	admin sync.Mutex
	// blocking serializes changes of the block of everything. It is apart from
	// admin, which may wait for the HSM.
	blocking sync.Mutex
}
