#!/usr/bin/env bash
# Usage: write-disk.sh IMAGE DEVICE SHA256
#
# Writes the raw disk IMAGE onto DEVICE, a block device or a file, and reads it back: both
# must have the hash SHA256. DEVICE may be "blank": the only disk of this machine that has
# neither partitions nor a file system. What is in use is never written to.
set -euo pipefail

fail() {
	echo "write-disk: $*" >&2
	exit 1
}

# blank prints the only blank disk.
blank() {
	local disk found=()
	while read -r disk; do
		# One line is the disk itself; more are its partitions and what is on them.
		[ "$(lsblk -nrpo NAME "$disk" | wc -l)" = 1 ] || continue
		[ -z "$(lsblk -dnro FSTYPE,MOUNTPOINT "$disk" | tr -d '[:space:]')" ] || continue
		found+=("$disk")
	done < <(lsblk -dnrbpo NAME,TYPE,SIZE | sed -n 's/ disk [1-9][0-9]*$//p') # an unused zram has no size
	[ "${#found[@]}" = 1 ] || fail "there are ${#found[@]} blank disks and not one: ${found[*]-}"
	echo "${found[0]}"
}

[ $# = 3 ] || fail "usage: write-disk.sh IMAGE DEVICE SHA256"
image=$1 device=$2 sha256=$3
[ -f "$image" ] || fail "$image is not a file"
[[ $sha256 =~ ^[0-9a-f]{64}$ ]] || fail "not a SHA-256: $sha256"
if [ "$device" = blank ]; then
	device=$(blank)
fi
device=$(readlink -f -- "$device")
size=$(stat -c %s "$image")

if [ -b "$device" ]; then
	mounts=$(lsblk -nro MOUNTPOINT "$device") || fail "$device: cannot tell whether it is in use"
	[ -z "$(tr -d '[:space:]' <<<"$mounts")" ] || fail "$device is in use"
	root=$(findmnt -nro SOURCE /) || fail "cannot tell which device is the root"
	if [ -b "$root" ] && lsblk -nrpso NAME "$root" | grep -qxF -- "$device"; then
		fail "$device is the root device"
	fi
	room=$(blockdev --getsize64 "$device")
elif [ -f "$device" ]; then
	room=$(stat -c %s "$device")
	if losetup -nO NAME -j "$device" 2>/dev/null | grep -q .; then
		fail "$device is in use by a loop device"
	fi
else
	fail "$device is neither a block device nor a file"
fi
[ "$room" -ge "$size" ] || fail "$device has $room bytes, the image $size"

hash() { head -c "$size" "$1" | sha256sum | cut -c-64; }

[ "$(hash "$image")" = "$sha256" ] || fail "$image does not have the hash $sha256"
dd if="$image" of="$device" bs=4M conv=notrunc,fsync status=none
# Not what the page cache remembers, but what is on the disk.
if [ -b "$device" ]; then
	blockdev --flushbufs "$device"
fi
[ "$(hash "$device")" = "$sha256" ] || fail "$device does not read back as the image"
echo "write-disk: $size bytes on $device, sha256 $sha256"
