package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/appliance/fault"
)

// oldestServer is the oldest major version of PostgreSQL that its project maintains.
const oldestServer = 14

// checkServer looks at the server behind a new connection.
func (l *Log) checkServer(ctx context.Context, conn *pgconn.PgConn) error {
	checking, end := context.WithTimeout(ctx, statementTime)
	defer end()
	var standby bool
	var version int64
	settings := map[string]string{"synchronous_commit": "", "fsync": "", "full_page_writes": ""}
	_, err := l.run(checking, conn, statement{
		sql: `SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on', current_setting('server_version_num')::bigint,
			current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes')`,
		time: statementTime, rows: 1, row: func(r *row) error {
			standby, version = r.bool("state"), r.number("version", 0, 1<<31)/10000
			for _, name := range []string{"synchronous_commit", "fsync", "full_page_writes"} {
				settings[name] = r.text(name, maxName)
			}
			return nil
		}})
	switch {
	case err != nil:
		return l.failed(checking, err)
	case standby:
		return l.fault(fault.DatabaseAway, nil, "takes no changes: it is a standby that was not promoted, or is read-only")
	case version < oldestServer:
		return l.fault(fault.DatabaseRefused, nil, fmt.Sprintf("is PostgreSQL %d: update it to %d or later", version, oldestServer))
	}
	if !l.options.Asynchronous {
		var wrong []string
		if s := settings["synchronous_commit"]; s != "on" && s != "remote_apply" {
			wrong = append(wrong, "synchronous_commit = "+l.clean(s))
		}
		for _, name := range []string{"fsync", "full_page_writes"} {
			if s := settings[name]; s != "on" {
				wrong = append(wrong, name+" = "+l.clean(s))
			}
		}
		if len(wrong) > 0 {
			return l.notDurable(strings.Join(wrong, ", "))
		}
	}
	if l.migrated.Load() {
		return l.checkCompatible(checking, func(ctx context.Context, s statement) (int64, error) {
			n, err := l.run(ctx, conn, s)
			if err != nil {
				err = l.failed(ctx, err)
			}
			return n, err
		})
	}
	return nil
}

func (l *Log) notDurable(setting string) error {
	return l.fault(fault.DatabaseRefused, nil, "commits before changes are on its disk, or on its synchronous replica's ("+setting+
		"), so changes that were answered could be lost: set synchronous_commit, fsync and full_page_writes to on in the server, and for the role and the database (ALTER ROLE, ALTER DATABASE); or, if that loss is acceptable, set state.database_asynchronous = true")
}

// reportStandbys logs that the server has standbys and waits for none. It is no reason to
// refuse it: which of them would be promoted cannot be asked, and one for reading alone is
// usual. A standby that is promoted without all changes is found by the nodes.
func (l *Log) reportStandbys(ctx context.Context) {
	var alone bool
	_, err := l.perform(ctx, statement{
		sql:  `SELECT current_setting('synchronous_standby_names') = '' AND EXISTS (SELECT FROM pg_stat_replication)`,
		rows: 1, row: func(r *row) error { alone = r.bool("state"); return nil }})
	if err == nil && alone && !l.options.Asynchronous {
		l.log.WarnContext(ctx, "the database has a replica and does not wait for it: if that replica is promoted, the newest changes may be lost; name it in synchronous_standby_names", "database", l.address.String())
	}
}
