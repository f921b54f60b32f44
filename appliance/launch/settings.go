package launch

// Setting is an option of the configuration, as launch files see it.
type Setting struct {
	// Key is the option by its dotted name.
	Key string
	// Refused says why a launch file may not set it, and what to do; empty if it may.
	Refused string
	// Meaning says what it is for, and Example is a value as the file has it; of those that
	// may be set.
	Meaning, Example string
	// Certificates says that its value is certificates in PEM, and not the path that the
	// configuration has.
	Certificates bool
}

// Why options are not for launch files.
const (
	ofImage   = "it belongs to the image, which is measured with it; leave it out, or build an image with another value"
	needsKey  = "it needs a secret, and many can read a launch file; leave it out, or build an image whose configuration names the secret's file"
	ofFleet   = "the nodes of a fleet reach their database with a password or a key, and many can read a launch file; leave it out, or build an image for the fleet"
	asCommand = "it holds a secret, and many can read a launch file; leave it out, and make the credential with holdfast credential create"
)

// settings has each option of the configuration, in its order.
var settings = []Setting{
	{Key: "state.dir", Refused: ofImage},
	{Key: "state.volume", Refused: ofImage},
	{Key: "state.database", Refused: ofFleet},
	{Key: "state.database_password_file", Refused: ofFleet},
	{Key: "state.database_ca", Refused: ofFleet},
	{Key: "state.database_certificate", Refused: ofFleet},
	{Key: "state.database_key", Refused: ofFleet},
	{Key: "state.database_asynchronous", Refused: ofFleet},

	{Key: "hsm.module", Example: `"libpkcs11.so"`, Meaning: "The HSM vendor's PKCS#11 library: the name of a file in the image's folder of modules."},
	{Key: "hsm.token_label", Example: `"holdfast"`, Meaning: "The label of the token. Give this or token_serial."},
	{Key: "hsm.token_serial", Example: `"0123456789"`, Meaning: "The serial number of the token, in place of its label."},
	{Key: "hsm.master_key_label", Example: `"holdfast-master"`, Meaning: "The label of the master key in the token."},
	{Key: "hsm.max_sessions", Example: `16`, Meaning: "How many operations run in the token at once."},
	{Key: "hsm.lease", Example: `"15m"`, Meaning: "How long keys stay in memory while the HSM does not answer."},
	{Key: "hsm.dialect", Example: `"standard"`, Meaning: "How the token wants the IV of AES-GCM: standard, luna-fips, protectserver-fips, protectserver-7.0-fips or cloudhsm; or key-wrap, which wraps keys in the place of AES-GCM."},
	{Key: "hsm.no_installation_object", Example: `false`, Meaning: "The token takes no data objects (CKO_DATA). Then nothing in the HSM is ever destroyed."},
	{Key: "hsm.process.read", Refused: ofImage},
	{Key: "hsm.process.write", Refused: ofImage},
	{Key: "hsm.process.ports", Example: `[1792]`, Meaning: "The TCP ports of the HSM: the module's process connects to no others. All if it is left out."},
	{Key: "hsm.process.environment", Refused: ofImage},
	{Key: "hsm.process.memory_mib", Example: `1024`, Meaning: "How much memory the module's process may have, in MiB."},
	{Key: "hsm.process.require_landlock", Refused: ofImage},
	{Key: "hsm.process.unit", Refused: ofImage},
	{Key: "hsm.process.addresses", Example: `["10.0.4.0/24"]`, Meaning: "The IP addresses and networks of the HSM: the module's process exchanges packets with no others. The image has a default."},
	{Key: "hsm.members.module", Example: `"libpkcs11.so"`, Meaning: "The module of one more token; the one above if empty."},
	{Key: "hsm.members.token_label", Example: `"holdfast-b"`, Meaning: "The label of one more token with the same master key and PIN. Give this or token_serial."},
	{Key: "hsm.members.token_serial", Example: `"9876543210"`, Meaning: "The serial number of that token, in place of its label."},
	{Key: "hsm.members.max_sessions", Example: `16`, Meaning: "How many operations run in that token at once."},
	{Key: "hsm.members.dialect", Example: `"standard"`, Meaning: "How that token wants the IV of AES-GCM, if it is of another model or firmware."},
	{Key: "hsm.members.process.read", Refused: ofImage},
	{Key: "hsm.members.process.write", Refused: ofImage},
	{Key: "hsm.members.process.ports", Example: `[1792]`, Meaning: "The TCP ports of that HSM: the module's process connects to no others. All if it is left out."},
	{Key: "hsm.members.process.environment", Refused: ofImage},
	{Key: "hsm.members.process.memory_mib", Example: `1024`, Meaning: "How much memory that token's process may have, in MiB."},
	{Key: "hsm.members.process.require_landlock", Refused: ofImage},
	{Key: "hsm.members.process.unit", Refused: ofImage},
	{Key: "hsm.members.process.addresses", Example: `["10.0.4.0/24"]`, Meaning: "The IP addresses and networks of that HSM: the module's process exchanges packets with no others. The image has a default."},

	{Key: "attestation.policy", Refused: ofImage},
	{Key: "attestation.policy_key", Refused: ofImage},
	{Key: "attestation.tpm", Refused: ofImage},
	{Key: "attestation.event_log", Refused: ofImage},
	{Key: "attestation.crl", Refused: ofImage},
	{Key: "attestation.tcb", Refused: ofImage},
	{Key: "attestation.every", Example: `"1h"`, Meaning: "How often the machine proves again what it is."},
	{Key: "attestation.lease", Example: `"24h"`, Meaning: "How long keys serve when it cannot."},

	{Key: "release.method", Example: `"broker"`, Meaning: "Who releases the HSM's PIN: the machine's own TPM (sealed), or a broker."},
	{Key: "release.authorizations", Refused: ofImage},
	{Key: "release.seal_key", Refused: ofImage},
	{Key: "release.sealed_pin", Refused: ofImage},
	{Key: "release.broker_url", Example: `"https://broker.example.com:8444"`, Meaning: "Where the broker is, https://HOST:PORT."},
	{Key: "release.broker_pin", Example: `"sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="`, Meaning: "The fingerprint of the broker's key. holdfast broker init prints it."},
	{Key: "release.machine", Example: `"kms-a"`, Meaning: "The name of this machine at the broker."},

	{Key: "xks.address", Refused: ofImage},
	{Key: "xks.certificate", Refused: ofImage},
	{Key: "xks.key", Refused: ofImage},
	{Key: "xks.client_ca", Certificates: true, Meaning: "Demand of each call of AWS KMS a client certificate (mTLS) of these authorities. Probes of a load balancer (/healthz, /readyz) need none. AWS has deprecated it."},
	{Key: "xks.client_names", Example: `["cks.kms.eu-west-1.amazonaws.com"]`, Meaning: "The common names that a client certificate may have."},
	{Key: "xks.regions", Example: `["eu-west-1"]`, Meaning: "The only Regions from which AWS KMS may call."},
	{Key: "xks.services", Example: `["kms-xks-proxy"]`, Meaning: "SigV4 service names that are accepted besides kms-xks-proxy."},
	{Key: "xks.max_connections", Refused: ofImage},
	{Key: "xks.request_timeout", Example: `"220ms"`, Meaning: "How long a request of AWS KMS waits for the HSM."},
	{Key: "xks.fleet_size", Example: `1`, Meaning: "How many appliances serve the same key stores."},
	{Key: "xks.url", Example: `"https://xks.example.com"`, Meaning: "What AWS KMS calls (XksProxyUriEndpoint): https:// and a DNS name, without port and path."},
	{Key: "xks.development", Refused: "it is for sites that AWS KMS cannot reach; leave it out, and give in xks.url a name without a port"},

	{Key: "admin.socket", Refused: ofImage},
	{Key: "admin.address", Refused: ofImage},
	{Key: "admin.url", Example: `"https://xks.example.com:9443"`, Meaning: "By what browsers open the console. Passkeys are bound to its host."},
	{Key: "admin.idle", Example: `"15m"`, Meaning: "How long a user stays signed in without doing anything."},
	{Key: "admin.session", Example: `"12h"`, Meaning: "How long a user stays signed in at all."},
	{Key: "admin.setup_code", Refused: "it names a file, and a launch file has none; give the hash of the setup code with holdfast launch sign --setup-code"},
	{Key: "admin.oidc.issuer", Example: `"https://login.example.com"`, Meaning: "An OpenID provider by which administrators may sign in."},
	{Key: "admin.oidc.client_id", Example: `"holdfast"`, Meaning: "The provider's name for the console."},
	{Key: "admin.oidc.client_secret_file", Refused: "it needs a secret, and many can read a launch file; register the console as a public client, which uses PKCE alone"},
	{Key: "admin.oidc.groups", Example: `{ "kms admins" = "administrator" }`, Meaning: "Which role each group of the provider gives: viewer, auditor, key-administrator or administrator."},
	{Key: "admin.oidc.groups_claim", Example: `"groups"`, Meaning: "The claim of the ID token that has the groups."},
	{Key: "admin.oidc.scopes", Example: `["groups"]`, Meaning: "Scopes that are asked for besides openid and email."},

	{Key: "keys.max_unlocked", Refused: ofImage},
	{Key: "keys.rotate_after", Example: `2147483648`, Meaning: "How many encryptions one version of a key does."},

	{Key: "audit.retain_age", Example: `"8760h"`, Meaning: "How long the audit log is kept."},
	{Key: "audit.retain_mib", Example: `65536`, Meaning: "How much of the audit log is kept, in MiB."},
	{Key: "audit.reserve_mib", Refused: ofImage},
	{Key: "audit.warn_mib", Example: `1024`, Meaning: "Below how many free MiB the appliance warns."},

	{Key: "log.level", Refused: ofImage},
	{Key: "log.format", Refused: ofImage},
	{Key: "log.requests", Refused: ofImage},

	{Key: "instance.metadata", Refused: ofImage},

	{Key: "fleet.grace", Refused: ofFleet},
	{Key: "fleet.address", Refused: ofFleet},

	{Key: "notify.to", Example: `["kms-admins@example.com"]`, Meaning: "Who hears of each request for approval, beside the users who may approve it."},
	{Key: "notify.smtp.host", Example: `"mail.example.com"`, Meaning: "The mail server, which must take mail of this machine without a password."},
	{Key: "notify.smtp.port", Example: `587`, Meaning: "Its port."},
	{Key: "notify.smtp.security", Example: `"starttls"`, Meaning: "How the connection to it is secured: starttls or tls."},
	{Key: "notify.smtp.user", Refused: needsKey},
	{Key: "notify.smtp.password_file", Refused: needsKey},
	{Key: "notify.smtp.from", Example: `"holdfast@example.com"`, Meaning: "The sender's address."},
	{Key: "notify.smtp.ca", Certificates: true, Meaning: "The authorities that may sign the mail server's certificate."},
	{Key: "notify.webhook.url", Refused: needsKey},
	{Key: "notify.webhook.secret_file", Refused: needsKey},
	{Key: "notify.webhook.ca", Refused: needsKey},

	{Key: "launch.required", Refused: ofImage},
	{Key: "launch.dir", Refused: ofImage},
	{Key: "launch.disk", Refused: ofImage},
	{Key: "launch.modules", Refused: ofImage},

	{Key: "aws_xks_config.aws_xks_enable", Refused: asCommand},
	{Key: "aws_xks_config.aws_xks_region", Refused: asCommand},
	{Key: "aws_xks_config.aws_xks_service", Refused: asCommand},
	{Key: "aws_xks_config.aws_xks_sigv4_access_key_id", Refused: asCommand},
	{Key: "aws_xks_config.aws_xks_sigv4_secret_access_key", Refused: asCommand},
}

// Settings gives each option of the configuration, in its order, with what launch files
// may do with it.
func Settings() []Setting { return append([]Setting(nil), settings...) }

var byKey = func() map[string]Setting {
	m := map[string]Setting{}
	for _, s := range settings {
		m[s.Key] = s
	}
	return m
}()
