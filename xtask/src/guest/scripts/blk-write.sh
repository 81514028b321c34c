# Writes and verifies until the host says stop, which may do meanwhile to the
# back end what it likes.
disk=/dev/vda
check device wait_for $disk
device=$(readlink -f /sys/block/vda/device)
same packed "$OUTBOARD_PACKED" "$(feature "$device" 34)"
same queues "$OUTBOARD_QUEUES" "$(ls /sys/block/vda/mq | wc -l)"
if /guest-writer $disk "$OUTBOARD_THREADS" "$OUTBOARD_BLOCKS"; then
    ok every-byte
else
    fail every-byte "the writer said no"
fi
