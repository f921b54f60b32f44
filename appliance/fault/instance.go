package fault

import "net/http"

// The codes of checks of EC2's instance identity document.
const (
	InstanceMissing   Code = "E_INSTANCE_MISSING"
	InstanceFormat    Code = "E_INSTANCE_FORMAT"
	InstanceSignature Code = "E_INSTANCE_SIGNATURE"
	InstanceOther     Code = "E_INSTANCE_OTHER"
	InstanceAccount   Code = "E_INSTANCE_ACCOUNT"
	InstanceRegion    Code = "E_INSTANCE_REGION"
	InstanceImage     Code = "E_INSTANCE_IMAGE"
	InstanceOwner     Code = "E_INSTANCE_OWNER"
)

var instanceCodes = []Entry{
	{Code: InstanceMissing, Class: TryAgain, Status: http.StatusForbidden,
		Title: "The evidence has no instance identity document, and the policy asks for one.",
		Do:    "Look whether the machine is an EC2 instance that can ask its metadata service (`instance.metadata = true`), and whether its own policy has the section `instance` as well. A boot tries again by itself."},
	{Code: InstanceFormat, Class: Refused, Do: notGenuine,
		Title: "The instance identity document is not well-formed."},
	{Code: InstanceSignature, Class: Refused,
		Title: "The instance identity document is not signed by a certificate that the policy has.",
		Do:    "Look in AWS's documentation whether the policy has the RSA-2048 certificate of the machine's Region. If it has, do not trust the machine: somebody changed the document."},
	{Code: InstanceOther, Class: Refused, Do: notGenuine,
		Title: "The instance identity document is of another instance than the NitroTPM document."},
	{Code: InstanceAccount, Class: Refused,
		Title: "The instance is of an AWS account that the policy does not name.",
		Do:    "Find out who launched it. If the account is right, name it in the policy, among the accounts of its section instance."},
	{Code: InstanceRegion, Class: Refused,
		Title: "The instance runs in a Region that the policy does not name.",
		Do:    "Launch it where the policy allows it, or name the Region in the policy, among the regions of its section instance."},
	{Code: InstanceImage, Class: Refused,
		Title: "The instance was launched from an image that the policy does not name.",
		Do:    "Launch it from an image that the policy names, or name this one in the policy, among the images of its section instance."},
	{Code: InstanceOwner, Class: Refused,
		Title: "The launch file's owner is not one that the policy names.",
		Do:    "Do not give the machine a secret: somebody else decides what it serves. Find out who launched it; if the owner is right, name its key in the policy, among the owners of its section instance."},
}
