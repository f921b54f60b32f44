// Package units has module processes run as services of systemd, as on the image: each member of an HSM
// cluster has units of its own, holdfast-module@NUMBER-a and -b, with a user, a filter of IP addresses and
// bounds of their own. Use [Launcher] in the program that opens a token, which has no rights, and [Manager] in the
// service of root that prepares units for it. Linux only.
//
// # Guarantees
//
//   - A unit exchanges packets with no address that the configuration does not name.
//   - What the manager is asked for goes into units as numbers, addresses and paths alone, so nobody writes
//     other lines into a unit by it.
//   - A process whose unit does not confine it as it was asked does not run.
package units
