// Package launch is the launch file: what the owner of a machine chooses of what an image
// leaves open, in the words of the configuration (package appliance/config).
//
//	format = "holdfast-launch/v1"
//	[owner]
//	policy_key = "…"   # who stands for the file
//	seal_key = "…"
//	[hsm]
//	module = "libpkcs11.so"
//	token_label = "holdfast"
//
// [Settings] says of each option of the configuration whether a launch file may set it, or
// why it may not. A launch file holds no secret, as many can read it on its way, and no
// path: certificates stand in it. A module is one of the image's, by its name.
//
// [Parse] is strict, and says all that is wrong at once. It does not look at who has
// signed: that comes first (package attest/owner), by the file's exact bytes; [Take] does
// both in this order. [File.Apply] puts what the file sets over the image's configuration.
package launch
