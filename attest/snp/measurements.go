package snp

// launches are launch measurements that were seen on real machines. On EC2 the
// measurement covers AWS's firmware and the initial state of its CPUs, so it depends on
// the firmware's release and the number of vCPUs; it is the same for each image. It is
// never predicted here: that needs the firmware that AWS runs (docs/attestation.md).
var launches = map[string]string{
	"507e82d27ea5b951dd765a3eb31ba5f582673b301d6983ded482d3feb066cb68979f1f11fede97687374d3a25002a15f": "EC2 firmware, release not known: c6a.large (2 vCPUs), eu-west-1, 2026-05-28 and 2026-06-29; m6a, us-east-2, 2026-06",
	// github.com/aws/uefi issue 19. What its author built of the published source, release
	// 20240809, has another value for 4 vCPUs (12964f88…), which nobody has seen.
	"b756dde72c548e42560ba6b43955b68c1239682104c78fa07989ed3d15478107cb0e0a2a9637604586b9615eb8da7617": "EC2 firmware, not that of the published source of 2024-08-09: c6a.xlarge (4 vCPUs), us-east-2, 2026-04, as reported in aws/uefi issue 19",
	// github.com/aws/uefi issue 10.
	"25ac810f5c4750890fb1a158f097962e04d4d7fb640d1d08a99829cf4a70543a47cc6fb192bbe90aa713142361a66155": "EC2 firmware, release not known: m6a.xlarge (4 vCPUs), 2023-08, as reported in aws/uefi issue 10",
}

// launchSeen says where a launch measurement, in hexadecimal, was seen; empty if it is
// not known.
func launchSeen(measurement string) string { return launches[measurement] }
