package auditlog

import (
	"context"
	"io"
	"slices"

	"holdfast/appliance/audit"
)

// reader reads this log, with what is known of its segments.
func (l *Log) reader() *audit.Reader {
	return audit.NewReaderOf(l.dir, func() ([]audit.Segment, error) {
		l.state.Lock()
		defer l.state.Unlock()
		return slices.Clone(l.state.segments), nil
	})
}

// Search is [audit.Reader.Search].
func (l *Log) Search(ctx context.Context, q audit.Query) (records []*audit.Record, next string, err error) {
	return l.reader().Search(ctx, q)
}

// Export is [audit.Reader.Export].
func (l *Log) Export(ctx context.Context, q audit.Query, w io.Writer, format string) error {
	return l.reader().Export(ctx, q, w, format)
}
