package daemon_test

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/audit/auditlog"
	"holdfast/appliance/config"
	"holdfast/appliance/identity"
	"holdfast/appliance/machine/boot"
	"holdfast/attest/device"
	"holdfast/attest/tpm"
	"holdfast/cmd/internal/modules"
	"holdfast/hsm"
	"holdfast/hsm/dialect"
	"holdfast/xks"
)

// inForce are the options that the configuration leaves empty, with what the packages take then.
var inForce = map[string]any{
	"hsm.master_key_label":    hsm.DefaultMasterKeyLabel,
	"hsm.max_sessions":        hsm.DefaultMaxSessions,
	"hsm.process.memory_mib":  modules.DefaultMemoryMiB,
	"hsm.dialect":             dialect.Standard,
	"hsm.lease":               appliance.DefaultLease,
	"attestation.tpm":         device.TPM,
	"attestation.event_log":   tpm.DefaultEventLog,
	"attestation.every":       boot.DefaultEvery,
	"attestation.lease":       boot.DefaultLease,
	"xks.max_connections":     xks.DefaultMaxConnections,
	"xks.request_timeout":     xks.DefaultTimeout,
	"xks.fleet_size":          xks.DefaultFleetSize,
	"admin.idle":              identity.DefaultIdle,
	"admin.session":           identity.DefaultAbsolute,
	"admin.oidc.groups_claim": identity.DefaultGroupsClaim,
	"notify.smtp.security":    config.STARTTLS,
	"keys.rotate_after":       appliance.DefaultRotateAfter,
	"audit.reserve_mib":       auditlog.DefaultReserveBytes >> 20,
	"audit.warn_mib":          auditlog.DefaultWarnBytes >> 20,
	"fleet.grace":             time.Duration(config.DefaultFleetGrace),
}

// defaultsInWords are the options whose default is no value, and why.
var defaultsInWords = map[string]string{
	"state.volume":       "there is no volume then",
	"launch.disk":        "no disk is looked at then",
	"state.database":     "there is no database server then",
	"state.database_ca":  "the machine has them",
	"fleet.address":      "it follows from the machine and from admin.address",
	"release.sealed_pin": "it follows from state.dir",
	"xks.regions":        "no region is kept out",
	"xks.url":            "it follows from the certificate",
	"admin.url":          "it follows from the certificate and from admin.address",
	"keys.max_unlocked":  "it follows from the machine's memory",
	"notify.to":          "they are in the database",
	"notify.smtp.port":   "it follows from notify.smtp.security",
	"notify.smtp.ca":     "the machine has them",
	"notify.webhook.ca":  "the machine has them",
	"audit.retain_age":   "nothing is removed",
	"audit.retain_mib":   "nothing is removed",
}

// TestDefaultsHold: what the settings show as an option's default is what holds if the option is
// left out. A new option is among them by itself.
func TestDefaultsHold(t *testing.T) {
	c, _, err := config.Parse("x.toml", []byte("[hsm]\nmodule = '/m.so'\ntoken_label = 't'\n[xks]\ncertificate = '/c.pem'\nkey = '/k.pem'\n[attestation]\npolicy = '/p'\npolicy_key = '/q'\n[release]\nauthorizations = '/a'\nseal_key = '/s'\n"))
	if err != nil {
		t.Fatal(err)
	}
	given := map[string]bool{}
	for _, o := range c.Options() {
		given[o.Name] = o.Source == config.FromFile
	}
	met := map[string]bool{}
	var walk func(v reflect.Value, table string)
	walk = func(v reflect.Value, table string) {
		for i := range v.NumField() {
			field, value := v.Type().Field(i), v.Field(i)
			name := table + field.Tag.Get("toml")
			said, tagged := field.Tag.Lookup("default")
			holds, inPackage := inForce[name]
			switch {
			case field.Tag.Get("toml") == "":
			case value.Kind() == reflect.Struct:
				walk(value, name+".")
			case given[name]:
			case defaultsInWords[name] != "":
				if met[name] = true; !tagged || inPackage || !value.IsZero() {
					t.Errorf("%s: its default is said to be words, and is %q, %v, %v", name, said, holds, value)
				}
			case inPackage:
				if met[name] = true; !value.IsZero() || said != written(holds, said) {
					t.Errorf("%s: the default is said to be %q, and %v holds; in the configuration is %v", name, said, holds, value)
				}
			case tagged || !value.IsZero(): // the configuration itself fills it in, or its zero is meant
				if said != fmt.Sprint(value) {
					t.Errorf("%s: the default is said to be %q, and %v holds", name, said, value)
				}
			}
		}
	}
	walk(reflect.ValueOf(*c), "")
	if len(met) != len(inForce)+len(defaultsInWords) {
		t.Errorf("%d options were met, of %d", len(met), len(inForce)+len(defaultsInWords))
	}
}

// written gives a value as the tag has it: a time span may be written in more than one way.
func written(holds any, said string) string {
	if span, ok := holds.(time.Duration); ok {
		if d, err := time.ParseDuration(said); err == nil && d == span {
			return said
		}
	}
	return fmt.Sprint(holds)
}
