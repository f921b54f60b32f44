package fault

// The codes of checks of the TPM's quote and event log.
const (
	TPMFormat       Code = "E_TPM_FORMAT"
	TPMAK           Code = "E_TPM_AK"
	TPMQuoteType    Code = "E_TPM_QUOTE_TYPE"
	TPMSignature    Code = "E_TPM_SIGNATURE"
	TPMNonce        Code = "E_TPM_NONCE"
	TPMBank         Code = "E_TPM_BANK"
	TPMPCRs         Code = "E_TPM_PCRS"
	TPMLogFormat    Code = "E_TPM_LOG_FORMAT"
	TPMLogEmpty     Code = "E_TPM_LOG_EMPTY"
	TPMLogReplay    Code = "E_TPM_LOG_REPLAY"
	TPMLogPCR       Code = "E_TPM_LOG_PCR"
	TPMLogSeparator Code = "E_TPM_LOG_SEPARATOR"
	TPMMeasurements Code = "E_TPM_MEASUREMENTS"
	TPMVolume       Code = "E_TPM_VOLUME"
	TPMLaunch       Code = "E_TPM_LAUNCH"
	TPMReference    Code = "E_TPM_REFERENCE"
)

// What to do where the event log does not explain the PCRs.
const eventLog = "Check that the machine's firmware and kernel give the whole event log (attestation.event_log). If they do, do not trust the machine."

var tpmCodes = []Entry{
	{Code: TPMFormat, Class: Refused, Do: notGenuine,
		Title: "The TPM's evidence is not well-formed."},
	{Code: TPMAK, Class: Refused, Do: notGenuine,
		Title: "The attestation key could sign other things, or could leave its TPM."},
	{Code: TPMQuoteType, Class: Refused, Do: notGenuine,
		Title: "What was signed is not a quote made by a TPM."},
	{Code: TPMSignature, Class: Refused, Do: notGenuine,
		Title: "The quote is not signed by the attestation key."},
	{Code: TPMNonce, Class: Refused, Do: notGenuine,
		Title: "The quote was not made for this evidence."},
	{Code: TPMBank, Class: Refused,
		Title: "The quote lacks the bank of PCRs that the policy asks for, or has a weak one.",
		Do:    "Launch the machine with a TPM that has the bank, or name another bank in the policy."},
	{Code: TPMPCRs, Class: Refused,
		Title: "The PCR values are not the quoted ones, or a PCR that the policy requires is missing.",
		Do:    "Quote all PCRs that the policy requires. If they were quoted, do not trust the machine."},
	{Code: TPMLogFormat, Class: Refused, Do: eventLog,
		Title: "The event log is not well-formed, or lacks the policy's bank."},
	{Code: TPMLogEmpty, Class: Refused, Do: eventLog,
		Title: "The event log has no events."},
	{Code: TPMLogReplay, Class: Refused, Do: eventLog,
		Title: "The event log does not replay to the quoted PCRs."},
	{Code: TPMLogPCR, Class: Refused, Do: eventLog,
		Title: "A PCR was extended, and the event log has no event of it."},
	{Code: TPMLogSeparator, Class: Refused, Do: eventLog,
		Title: "The event log does not show where firmware ends and the operating system begins."},
	{Code: TPMMeasurements, Class: Refused,
		Title: "The application's PCR is not what the listed measurements come to.",
		Do:    "Find out who asks: a measurement, or the cap, was left out. Restart the machine."},
	{Code: TPMVolume, Class: Refused,
		Title: "The state volume's PCR (8) is not what the volume's identity comes to.",
		Do:    "Find out what extended PCR 8 besides the program that opens the state volume: another boot loader, or a process that ran before. Start Holdfast's image directly, and restart the machine."},
	{Code: TPMLaunch, Class: Refused,
		Title: "The launch file's PCR (15) is not what the launch file's digest comes to.",
		Do:    "Find out what extended PCR 15 besides the appliance: another system, or a process that ran before. Start Holdfast's image directly, and restart the machine."},
	{Code: TPMReference, Class: Refused,
		Title: "The PCRs are not those of a release that the policy names.",
		Do:    "Read in the detail which PCRs differ. 4 and 11: another kernel image. 7: other Secure Boot keys, or with 4: Secure Boot is off. 12 and 13: something lies beside the kernel image. 14: another program, configuration or module. Start the right image, or name this one in the policy."},
}
