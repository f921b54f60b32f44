package fault

import "net/http"

// The codes of checks of the evidence as a whole. [PolicyUnproven] and
// [BrokerCapped] are checks, too.
const (
	EvidenceNonce    Code = "E_NONCE"
	EvidenceTLSKey   Code = "E_TLS_KEY"
	EvidenceTime     Code = "E_TIME"
	EvidenceRequired Code = "E_REQUIRED"
	EvidencePolicy   Code = "E_POLICY"
	EvidenceParts    Code = "E_PARTS"
	EvidenceFormat   Code = "E_EVIDENCE_FORMAT"
	EvidenceReport   Code = "E_REPORT_KIND"
	EvidenceLaunch   Code = "E_LAUNCH_DIGEST"
	EvidenceOwner    Code = "E_OWNER"
)

// What to do where a check says that the evidence is not genuine.
const notGenuine = "Do not trust the machine. Ask it for evidence again; if that fails too, find out who made this evidence."

// What to do where a clock may be wrong.
const clock = "Set the clocks of the machine and of the verifier, and make evidence again. A boot tries again by itself."

var evidenceCodes = []Entry{
	{Code: EvidenceNonce, Class: Refused,
		Title: "The evidence was not made for this verifier: it has another nonce.",
		Do:    "Ask for evidence with a nonce of your own: `holdfast attest evidence --nonce HEX --out FILE`."},
	{Code: EvidenceTLSKey, Class: Refused,
		Title: "The TLS key in the evidence is not the one that the machine uses.",
		Do:    "Do not trust the connection: another server may answer in the machine's place. If its certificate was renewed, ask for evidence again."},
	{Code: EvidenceTime, Class: TryAgain, Status: http.StatusForbidden,
		Title: "The evidence is older than the policy allows, or from the future.",
		Do:    clock},
	{Code: EvidenceRequired, Class: Refused,
		Title: "The evidence lacks a technology that the policy requires.",
		Do:    "Launch the machine with what the detail names."},
	{Code: EvidencePolicy, Class: Refused,
		Title: "The machine has another policy than the one that the evidence is appraised under.",
		Do:    "Appraise under the machine's policy, or install yours on the machine."},
	{Code: EvidenceFormat, Class: Refused, Do: notGenuine,
		Title: "The evidence is not well-formed."},
	{Code: EvidenceReport, Class: Refused,
		Title: "The processor's report is of a kind that this program or the policy does not know.",
		Do:    "Verify with a newer release; or name the kind in the policy, if you trust it."},
	{Code: EvidenceLaunch, Class: Refused,
		Title: "The machine runs by another launch file than the one that is expected, or names another than was measured.",
		Do:    "Compare with the launch file that the owner has signed: `holdfast launch show FILE`. If the evidence names one and PCR 15 has another, do not trust the machine."},
	{Code: EvidenceOwner, Class: Refused,
		Title: "The key that stands for the machine's launch file is not that of the expected owner.",
		Do:    "Do not give the machine a secret: somebody else decides what it serves. Find out who launched it."},
	{Code: EvidenceParts, Class: Refused,
		Title: "The documents are of different machines or times, or nothing ties them to each other.",
		Do:    "Give an evidence file, in which all documents are tied to each other: `holdfast attest evidence --nonce HEX --out FILE`."},
}
