package recorder

import (
	"context"
	"encoding/json"
	"fmt"

	"holdfast/appliance"
	"holdfast/appliance/audit"
)

// What the appliance does by itself is in the log with these actors.
const (
	actorConfiguration = "configuration [aws_xks_config]"
	actorWaitingPeriod = "waiting period"
	actorEncryptions   = "encryptions done"
	actorLeftover      = "no key needs it"
	actorFirstUnlock   = "first unlock"
	actorModule        = "PKCS#11 module"
)

// Configured records something that the configuration has made, by the operation that
// makes it otherwise.
func (r *Recorder) Configured(ctx context.Context, operation, keyStore string, made any) error {
	return r.work(ctx, &audit.Record{Operation: operation, Actor: actorConfiguration, KeyStore: keyStore}, made)
}

// KeyDeleted records that a key is deleted for good, as its waiting period is over.
// What cannot be recorded is not done.
func (r *Recorder) KeyDeleted(ctx context.Context, keyStore, keyID string) error {
	return r.work(ctx, &audit.Record{Operation: "delete key", Actor: actorWaitingPeriod, KeyStore: keyStore, Key: keyID}, nil)
}

// ObjectDestroyed records that a key object in the HSM's token is destroyed, as no key
// needs it.
func (r *Recorder) ObjectDestroyed(ctx context.Context, keyStore string, o *appliance.TokenObject) error {
	return r.work(ctx, &audit.Record{Operation: "destroy key object", Actor: actorLeftover, KeyStore: keyStore, Key: o.KeyID, Version: uint64(o.Version), Detail: "object " + o.Label + " in the HSM's token"}, nil)
}

// ModuleEnded records that the process of a PKCS#11 module ended, or was ended as it was of no use: why, and what to do.
func (r *Recorder) ModuleEnded(ctx context.Context, token, why, do string) error {
	return r.Record(ctx, &audit.Record{Kind: audit.KindAdmin, Operation: "restart module process", Actor: actorModule, Result: audit.Failed,
		Detail: fmt.Sprintf("token %s: %s; %s", token, why, do)})
}

// KeyRotated records that a key is rotated by itself, as its version has done its
// encryptions; version is the new one.
func (r *Recorder) KeyRotated(ctx context.Context, keyStore, keyID string, version uint32) error {
	return r.work(ctx, &audit.Record{Operation: "rotate key", Actor: actorEncryptions, KeyStore: keyStore, Key: keyID, Version: uint64(version)}, nil)
}

// UsersSealed records who can act from the first unlock on, and who has confirmed that.
func (r *Recorder) UsersSealed(ctx context.Context, all []appliance.Admitted, c appliance.Confirmation) error {
	list := make([]string, 0, len(all))
	for i := range all {
		if a := &all[i]; !a.Refused {
			list = append(list, a.Kind+" "+a.Name+": "+a.Detail)
		}
	}
	return r.work(ctx, &audit.Record{Operation: "seal users", Actor: actorFirstUnlock}, map[string]any{"confirmed": c, "sealed": list[:min(len(list), maxSealed)], "number": len(list)})
}

// maxSealed bounds how many of those who are sealed a record names. The digest is of all.
const maxSealed = 100

func (r *Recorder) work(ctx context.Context, record *audit.Record, after any) (err error) {
	record.Kind, record.Result = audit.KindAdmin, audit.Allowed
	if after != nil {
		if record.After, err = json.Marshal(after); err != nil {
			return err
		}
	}
	return r.Record(ctx, record)
}
