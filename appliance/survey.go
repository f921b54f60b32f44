package appliance

import (
	"context"
	"time"
)

// OfflineRows are the rows of a database that is looked at and never changed, such as a
// copy of the state. Package sqlite makes one.
type OfflineRows interface {
	// Loss says that the write-ahead log is damaged, and whether it is certain that changes
	// are missing that were answered. Otherwise the anchor can tell.
	Loss() (certain bool, why error)
	// Survey reads all rows in the schema that they have. With the key the sets are held
	// against their manifests.
	Survey(ctx context.Context, key ManifestKey) (*Survey, error)
	// StateKey gives ID, wrapped state key and time of the installation, in whatever
	// schema. fault.NotFound.
	StateKey(ctx context.Context) (*Installation, error)
	// AuditHead is that of [AuditHeadRows].
	AuditHead(ctx context.Context) (*AuditHeadRow, error)
	// Past says whether a head is the one that the rows name, or in its past; before
	// Migrated.
	Past(ctx context.Context, h Head) (bool, error)
	// Migrated gives the rows in this binary's schema, for reading.
	Migrated(ctx context.Context) (Store, error)
}

// Survey is what a database says of itself, and what its sets are by their manifests.
type Survey struct {
	// Schema is the version of the schema that it has, Knows that of this binary.
	Schema, Knows int64
	// Rows is how many rows count.
	Rows int
	// Head is that of the installation's manifest, and HeadSchema the schema that it was
	// written in; zero without one.
	Head       Head
	HeadSchema int64
	// Chained says that the history has the head.
	Chained bool
	// Judged says that the sets were held against their manifests. Why is why the
	// installation's does not match, or none could be judged.
	Judged bool
	Why    error
	Sets   []SetSurvey
}

// SetSurvey is the set of one scope.
type SetSurvey struct {
	Scope string
	// Sequence and At are those of its manifest; zero if it has none.
	Sequence uint64
	At       time.Time
	// Matches says that its rows are those of its manifest, if that was judged.
	Matches bool
}
