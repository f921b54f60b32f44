package console

import (
	"cmp"
	"fmt"
	"math"
	"net/url"
	"time"

	"holdfast/appliance"
	"holdfast/appliance/activity"
	"holdfast/appliance/fault"
	"holdfast/appliance/identity"
	"holdfast/appliance/machine/boot/progress"
	"holdfast/web/console/ui"
	"holdfast/web/operation"
)

// overviewData is what the first page shows.
type overviewData struct {
	status      operation.Status
	now         time.Time
	hours       int
	total       activity.Minute // of the hours
	minutes     []activity.Minute
	requests    ui.Chart
	latency     ui.Chart
	certificate operation.Certificate
	stores      []*appliance.KeyStore
	health      []namedHealth
	seal        *ui.Form
	give        string                     // the command by which the owner gives the PIN; empty for none
	admission   *operation.AdmissionDetail // with the form, if somebody has to confirm it
	unblock     *ui.Form
	block       ui.Form
	manages     bool
	warnings    []warning
	checklist   checklist
	wayBack     wayBack
}

type namedHealth struct {
	Name string
	*operation.KeyStoreHealth
}

// warning is something that an administrator should do.
type warning struct {
	kind        ui.Kind
	title, text string
}

// checklist mirrors the steps in AWS.
type checklist struct {
	store, credential, key, grant, used bool
	name, endpoint, path                string
}

func overview(p *page) (*view, error) {
	d := &overviewData{now: p.now, hours: 3, manages: p.may(identity.ManageKeys)}
	if p.URL.Query().Get("hours") == "24" {
		d.hours = 24
	}
	var err error
	if d.status, err = read(p, operation.ShowStatus, operation.Nothing{}); err != nil {
		return nil, err
	}
	for ask := (operation.Minutes{Minutes: d.hours * 60, Paging: operation.Paging{Limit: 1000}}); ; {
		some, err := read(p, operation.ListActivity, ask)
		if err != nil {
			return nil, err
		}
		d.minutes = append(d.minutes, some.Items...)
		if ask.After = some.Next; ask.After == "" {
			break
		}
	}
	if d.certificate, err = read(p, operation.ShowCertificate, operation.Nothing{}); err != nil {
		return nil, err
	}
	d.charts()
	if !d.status.Locked {
		if err := d.look(p); err != nil {
			return nil, err
		}
	}
	d.warn()
	own, err := read(p, operation.ShowAccount, operation.Nothing{})
	if err != nil {
		return nil, err
	}
	d.wayBack = p.wayBack(own.User)
	if err := d.forms(p); err != nil {
		return nil, err
	}
	return &view{title: "Overview", body: overviewPage(d)}, nil
}

// maxOverviewStores is how many key stores the overview looks into.
const maxOverviewStores = 20

// look asks for what there is while keys are served.
func (d *overviewData) look(p *page) (err error) {
	stores, err := read(p, operation.ListKeyStores, operation.KeyStorePage{Paging: operation.Paging{Limit: 1000}})
	if err != nil {
		return err
	}
	d.stores = stores.Items
	l := &d.checklist
	for i, ks := range d.stores {
		if i == maxOverviewStores {
			break
		}
		name, detail := operation.KeyStoreName{KeyStore: ks.Name}, &appliance.KeyStoreDetail{}
		h, err := read(p, operation.ShowKeyStoreHealth, name)
		if err != nil {
			h = &operation.KeyStoreHealth{Standing: ks.Standing, Reason: p.c.message(p.Request, err)}
		} else if detail, err = read(p, operation.ShowKeyStore, name); err != nil {
			return err
		}
		d.health = append(d.health, namedHealth{ks.Name, h})
		if l.name == "" {
			l.name, l.path = ks.Name, h.URIPath
			if h.EndpointProblem == "" {
				l.endpoint = h.URIEndpoint
			}
		}
		l.store = true
		l.credential = l.credential || h.ActiveCredentials > 0
		l.key = l.key || detail.Keys > 0
		l.grant = l.grant || len(detail.Grants) > 0
		for _, c := range detail.Credentials {
			l.used = l.used || !c.LastUsedAt.IsZero()
			if age := d.now.Sub(c.CreatedAt); c.Active && age > 365*24*time.Hour {
				d.warnings = append(d.warnings, warning{ui.Warn, "An old SigV4 credential", fmt.Sprintf("%s of key store %s was made %s; rotate it.", c.AccessKeyID, ks.Name, ui.Ago(c.CreatedAt, d.now))})
			}
		}
	}
	return nil
}

// warn finds what should be done.
func (d *overviewData) warn() {
	add := func(kind ui.Kind, title, format string, args ...any) {
		d.warnings = append(d.warnings, warning{kind, title, fmt.Sprintf(format, args...)})
	}
	if i := d.status.Installation; i.Detail != "" && !d.status.Locked {
		add(ui.Warn, "This copy of the installation is not the owner: "+string(i.Ownership), "%s.", i.Detail)
	}
	if c := d.status.Clock; c.Waits != "" {
		add(ui.Warn, "Keys that are due and old audit records wait", "%s.", c.Waits)
	}
	if left := d.certificate.NotAfter.Sub(d.now); left < 0 {
		add(ui.Bad, "The TLS certificate has expired", "KMS refuses to connect. Install a new one in the settings.")
	} else if left < 30*24*time.Hour {
		add(ui.Warn, "The TLS certificate expires soon", "It does %s, at %s. KMS then refuses to connect.", ui.Ago(d.certificate.NotAfter, d.now), ui.Stamp(d.certificate.NotAfter))
	}
	if s := d.status.State; s != nil {
		d.warnings = append(d.warnings, stateWarnings(s, d.stores)...)
	}
	if a := d.status.Audit; a != nil {
		switch {
		case a.Broken != "":
			add(ui.Bad, "Nothing can be recorded", "%s", a.Broken)
		case a.Level == "full":
			add(ui.Bad, "The audit log's disk is full", "Requests are refused until there is space.")
		case a.Level == "warning":
			add(ui.Warn, "The audit log's disk is filling up", "%s are left.", ui.Bytes(a.Free))
		}
		if a.Signer != "" {
			add(ui.Warn, "The audit log is not signed", "%s", a.Signer)
		}
	}
	for _, h := range d.status.HSMs {
		if h.Error != "" {
			add(ui.Warn, "HSM "+h.Label+" does not answer as it should", "%s", h.Error)
		}
	}
}

func (d *overviewData) forms(p *page) (err error) {
	if d.manages {
		d.block = p.form(operation.Block, "", ui.Form{Folded: true, Kind: "danger",
			Note: "Takes every key of every key store out of service at once, and wipes them from memory, until somebody unblocks.", Label: "Block everything",
			Fields: []ui.Field{{Name: "reason", Label: "Reason", Required: true, Hint: "KMS does not see it; the audit log does"}}}, "everything", "true")
		if !d.status.Blocked.IsZero() {
			f := p.form(operation.Unblock, "", ui.Form{Kind: "quiet"}, "everything", "true")
			d.unblock = &f
		}
	}
	if d.admission, err = admission(p); err != nil {
		return err
	}
	if b := d.status.Boot; b.Owner != "" && b.State == progress.Release && b.Code != "" {
		origin, _ := p.address()
		d.give = "holdfast pin give " + cmp.Or(origin, "https://HOST:9443") + " --owner FILE --launch FILE --policy FILE --policy-key FILE"
		return nil
	}
	if d.status.Boot.Code == string(fault.SealMissing) && p.may(identity.Administer) {
		f := p.form(operation.Seal, "", ui.Form{Note: "The PIN is sealed to this machine's TPM: it comes out only while the machine is in a state that your signed policy names.",
			Fields: []ui.Field{{Name: "pin", Label: "HSM user PIN", Type: "password", Required: true, Autocomplete: "off"}}}, seen(d.admission)...)
		d.seal = &f
	}
	return nil
}

// charts draws the minutes: each of three hours, or sums of ten of a day.
func (d *overviewData) charts() {
	step := 1
	if d.hours > 3 {
		step = 10
	}
	var requests, refused, failed, p50, p99 []ui.Point
	for i := 0; i < len(d.minutes); i += step {
		sum := activity.Minute{Start: d.minutes[i].Start}
		for _, m := range d.minutes[i:min(i+step, len(d.minutes))] {
			sum.Requests += m.Requests
			sum.Refused += m.Refused
			sum.Failed += m.Failed
			sum.Slow += m.Slow
			sum.P50, sum.P99 = max(sum.P50, m.P50), max(sum.P99, m.P99)
		}
		d.total.Requests += sum.Requests
		d.total.Refused += sum.Refused
		d.total.Failed += sum.Failed
		d.total.Slow += sum.Slow
		d.total.P99 = max(d.total.P99, sum.P99)
		rate := func(n uint64) ui.Point { return ui.Point{Time: sum.Start, Value: float64(n) / float64(step*60)} }
		requests, refused, failed = append(requests, rate(sum.Requests)), append(refused, rate(sum.Refused)), append(failed, rate(sum.Failed))
		took := func(ms float64) ui.Point {
			if sum.Requests == 0 {
				ms = math.NaN()
			}
			return ui.Point{Time: sum.Start, Value: ms}
		}
		p50, p99 = append(p50, took(sum.P50)), append(p99, took(sum.P99))
	}
	from := d.minutes[0].Start
	d.requests = ui.Chart{Title: "Requests", Unit: "per second", From: from, To: d.now, Series: []ui.Series{{Name: "all", Points: requests}, {Name: "refused", Points: refused}, {Name: "failed", Points: failed}}}
	d.latency = ui.Chart{Title: "Latency", Unit: "ms", From: from, To: d.now, Threshold: 250, ThresholdText: "KMS gives up after 250 ms",
		Series: []ui.Series{{Name: "half of requests", Points: p50}, {Name: "99 of 100", Points: p99}}}
}

// latest is the last whole minute.
func (d *overviewData) latest() activity.Minute {
	if len(d.minutes) < 2 {
		return activity.Minute{}
	}
	return d.minutes[len(d.minutes)-2]
}

func hsmBadge(h appliance.HSMHealth) ui.Badge {
	switch h.Status {
	case appliance.HealthActive:
		return ui.Badge{Kind: ui.OK, Text: "Active"}
	case appliance.HealthDegraded:
		return ui.Badge{Kind: ui.Warn, Text: "Degraded"}
	}
	return ui.Badge{Kind: ui.Bad, Text: "Unavailable"}
}

func query(pairs ...string) string {
	v := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	if len(v) == 0 {
		return ""
	}
	return "?" + v.Encode()
}

// connectCommand makes the KMS custom key store (AWS CLI, kms create-custom-key-store).
func (l checklist) connectCommand() string {
	endpoint := l.endpoint
	if endpoint == "" {
		endpoint = "https://YOUR.ENDPOINT.NAME"
	}
	return `aws kms create-custom-key-store \
  --custom-key-store-name ` + l.name + ` \
  --custom-key-store-type EXTERNAL_KEY_STORE \
  --xks-proxy-connectivity VPC_ENDPOINT_SERVICE \
  --xks-proxy-vpc-endpoint-service-name com.amazonaws.vpce.REGION.vpce-svc-EXAMPLE \
  --xks-proxy-uri-endpoint ` + endpoint + ` \
  --xks-proxy-uri-path ` + l.path + ` \
  --xks-proxy-authentication-credential AccessKeyId=ID,RawSecretAccessKey=SECRET

aws kms connect-custom-key-store --custom-key-store-id cks-EXAMPLE
aws kms describe-custom-key-stores --custom-key-store-id cks-EXAMPLE`
}

const createKeyCommand = `aws kms create-key --origin EXTERNAL_KEY_STORE \
  --custom-key-store-id cks-EXAMPLE \
  --xks-key-id KEY-ID-OF-HERE`

// connectionErrors are KMS's reasons not to connect (AWS KMS Developer Guide,
// "How to fix an external key store"; ConnectionErrorCode of the API).
var connectionErrors = []struct{ code, what string }{
	{"XKS_PROXY_ACCESS_DENIED", "The appliance refuses KMS's signature: the credential here and in KMS differ, or is deactivated, or a Region is not allowed"},
	{"XKS_PROXY_INVALID_CONFIGURATION", "The URI path is not one of a key store here; compare it"},
	{"XKS_PROXY_INVALID_RESPONSE", "Something between KMS and the appliance answers in its place, such as a load balancer that ends TLS"},
	{"XKS_PROXY_INVALID_TLS_CONFIGURATION", "The TLS certificate is not signed by a public authority, has another name, or has expired"},
	{"XKS_PROXY_NOT_REACHABLE", "Nothing answers: look at endpoint service, security groups and DNS name"},
	{"XKS_PROXY_TIMED_OUT", "No answer within 250 ms: look at the HSM's health and the latency above"},
	{"XKS_VPC_ENDPOINT_SERVICE_INVALID_CONFIGURATION", "The endpoint service's principals, DNS name or zones do not meet KMS's conditions"},
	{"XKS_VPC_ENDPOINT_SERVICE_NOT_FOUND", "The endpoint service's name is wrong, or it is in another Region"},
}
