package appliance_test

import (
	"io"

	"holdfast/appliance"
)

func backupTo(a *appliance.Appliance, w io.Writer) error { return a.Backup(ctx, w, "") }
