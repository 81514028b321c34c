# An entropy device: who it is, and bytes of it for the host to judge.
device=/sys/class/misc/hw_random
check device wait_for /dev/hwrng
same chosen "${OUTBOARD_RNG:-virtio_rng.0}" "$(cat $device/rng_current)"
set -- /sys/bus/virtio/drivers/virtio_rng/virtio*
same version-1 1 "$(feature "$1" 32)"
value features "$(cat "$1/features")"
check first dd if=/dev/hwrng of=/tmp/first bs=1024 count="$OUTBOARD_KIB" iflag=fullblock
check second dd if=/dev/hwrng of=/tmp/second bs=1024 count=1 iflag=fullblock
same length "$((OUTBOARD_KIB * 1024))" "$(stat -c %s /tmp/first)"
hexdump -v -e '32/1 "%02x" "\n"' /tmp/first | sed 's/^/OUTBOARD-DATA first /'
hexdump -v -e '32/1 "%02x" "\n"' /tmp/second | sed 's/^/OUTBOARD-DATA second /'
