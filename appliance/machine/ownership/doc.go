// Package ownership finds out whose a machine is: it takes the launch file that the
// machine's owner has signed (packages attest/owner, appliance/launch), keeps it, and
// remembers what it took.
//
// A launch file is looked for in the folder launch.dir, then on the disk launch.disk, then
// in the user data; the first that is there counts, and the other places are not asked for
// another. It has no effect before it is held against what the machine remembers: the same
// owner, or one whom the owner before has signed for; and a higher version, or the same
// bytes. What is wrong leaves the image's own configuration in force, and the boot locked.
package ownership
