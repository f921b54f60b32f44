package snp

// launches are launch measurements that were seen on real machines. On EC2 the
// measurement covers AWS's firmware and the initial state of its CPUs, so it depends on
// the firmware's release and the number of vCPUs; it is the same for each image. It is
// never predicted here: that needs the firmware that AWS runs (docs/attestation.md).
var launches = map[string]string{
	"507e82d27ea5b951dd765a3eb31ba5f582673b301d6983ded482d3feb066cb68979f1f11fede97687374d3a25002a15f": "EC2 firmware, release not known: c6a.large (2 vCPUs), eu-west-1, 2026-05-28 and 2026-06-29; m6a, us-east-2, 2026-06",
}

// launchSeen says where a launch measurement, in hexadecimal, was seen; empty if it is
// not known.
func launchSeen(measurement string) string { return launches[measurement] }
