// Package boottest boots the image under QEMU, with a TPM in software and UEFI
// firmware that has Secure Boot on under the image's own keys, and looks that it
// does what it promises: that its measurements were predicted, that it keeps its
// state from boot to boot and through an update, and that whatever was changed
// gets neither the state nor the HSM's PIN.
//
// It needs images that `make image-test` builds: those of the release, but with a
// software token in the place of the HSM, a policy that asks for a TPM alone, and a
// program that tells how the process is confined. What needs QEMU has the build tag
// image; the rest decides from a console's text whether a boot is tried once more.
package boottest
