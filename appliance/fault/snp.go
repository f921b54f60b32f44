package fault

import "net/http"

// The codes of checks of the SEV-SNP report.
const (
	SNPFormat      Code = "E_SNP_FORMAT"
	SNPVersion     Code = "E_SNP_VERSION"
	SNPProduct     Code = "E_SNP_PRODUCT"
	SNPKeyKind     Code = "E_SNP_KEY_KIND"
	SNPChain       Code = "E_SNP_CHAIN"
	SNPTime        Code = "E_SNP_TIME"
	SNPCRL         Code = "E_SNP_CRL"
	SNPSignature   Code = "E_SNP_SIGNATURE"
	SNPVEK         Code = "E_SNP_VEK"
	SNPCSPID       Code = "E_SNP_CSP_ID"
	SNPChip        Code = "E_SNP_CHIP"
	SNPUnknown     Code = "E_SNP_UNKNOWN"
	SNPReportData  Code = "E_SNP_REPORT_DATA"
	SNPDebug       Code = "E_SNP_DEBUG"
	SNPMigration   Code = "E_SNP_MIGRATION"
	SNPVMPL        Code = "E_SNP_VMPL"
	SNPTCB         Code = "E_SNP_TCB"
	SNPFirmware    Code = "E_SNP_FIRMWARE"
	SNPPlatform    Code = "E_SNP_PLATFORM"
	SNPMeasurement Code = "E_SNP_MEASUREMENT"
	SNPHostData    Code = "E_SNP_HOST_DATA"
)

// What to do where the host is not as the policy asks.
const otherHost = "Stop and start the instance, which usually moves it to another host; or accept this in a policy of your own."

var snpCodes = []Entry{
	{Code: SNPFormat, Class: Refused, Do: notGenuine,
		Title: "The SEV-SNP report, or the certificate of its key, is not well-formed."},
	{Code: SNPVersion, Class: Refused, Do: otherHost,
		Title: "The report's version is too old to show all that the policy asks for."},
	{Code: SNPProduct, Class: Refused, Do: otherHost,
		Title: "The processor is not of a product line that the policy names."},
	{Code: SNPKeyKind, Class: Refused,
		Title: "The report is signed by a kind of key that the policy does not accept.",
		Do:    "Name the kind of key in the policy if you trust it: AWS signs with a VLEK."},
	{Code: SNPChain, Class: Refused, Do: notGenuine,
		Title: "The certificate of the key does not lead to AMD's root."},
	{Code: SNPTime, Class: TryAgain, Status: http.StatusForbidden, Do: clock,
		Title: "A certificate of the chain was not valid at the time of the evidence."},
	{Code: SNPCRL, Class: Refused,
		Title: "AMD has revoked the issuer of the certificate, or the list of revocations cannot be used.",
		Do:    "If the issuer is on a list, do not trust the machine. Otherwise give the verifier AMD's present list: verify --crl, broker crl, or attestation.crl."},
	{Code: SNPSignature, Class: Refused, Do: notGenuine,
		Title: "The report is not signed by the key of the certificate, or was changed since."},
	{Code: SNPVEK, Class: Refused, Do: notGenuine,
		Title: "The certificate was issued for another platform or firmware than the report names."},
	{Code: SNPCSPID, Class: Refused,
		Title: "The cloud provider, or its Region, that vouches for the host is not one that the policy names.",
		Do:    "Launch the machine in a Region that the policy names, or name this one in the policy."},
	{Code: SNPChip, Class: Refused,
		Title: "The report is signed by the key of a chip that the policy does not name.",
		Do:    "Find out whether the chip is of a host of yours. Name it in the policy (chip_ids) if it is; do not trust the machine if it is not."},
	{Code: SNPUnknown, Class: Refused,
		Title: "The report says something that this version does not know, and the policy refuses that (refuse_unknown).",
		Do:    "Read in AMD's publication 56860 what it means. Install a version that knows it, or sign a policy without refuse_unknown."},
	{Code: SNPReportData, Class: Refused, Do: notGenuine,
		Title: "The report was not made for this evidence."},
	{Code: SNPDebug, Class: Refused,
		Title: "The host may read the machine's memory by debugging it.",
		Do:    "Launch the machine without debugging. Do not give it a secret."},
	{Code: SNPMigration, Class: Refused,
		Title: "A migration agent may move the machine's memory elsewhere.",
		Do:    "Launch the machine without a migration agent. Do not give it a secret."},
	{Code: SNPVMPL, Class: Refused,
		Title: "The report was not asked for by the privilege level that the policy names.",
		Do:    "Launch the machine without a layer below its kernel, or name the level in the policy if you trust that layer."},
	{Code: SNPTCB, Class: Refused, Do: otherHost,
		Title: "The platform's firmware or microcode is older than the policy asks for."},
	{Code: SNPFirmware, Class: Refused, Do: otherHost,
		Title: "The platform runs older firmware than it is committed to."},
	{Code: SNPPlatform, Class: Refused, Do: otherHost,
		Title: "The host has not checked that no two addresses are the same memory."},
	{Code: SNPMeasurement, Class: Refused,
		Title: "The machine was started with firmware that the policy does not know.",
		Do:    "Find out which firmware it is. Name its measurement in the policy if you trust it."},
	{Code: SNPHostData, Class: Refused,
		Title: "The machine was started with other host data than the policy names.",
		Do:    "Launch the machine with the host data that the policy names."},
}
