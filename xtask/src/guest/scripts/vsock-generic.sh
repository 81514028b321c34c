# A socket device whose queue of events reaches the guest: it is told when its connections are gone.
check device wait_for /dev/vsock
vsock=/guest-vsock
same packed "$OUTBOARD_PACKED" "$(feature "$(echo /sys/bus/virtio/drivers/vmw_vsock_virtio_transport/virtio*)" 34)"
check echo $vsock copy stream 2 7 "$OUTBOARD_BYTES"
check messages $vsock copy seqpacket 2 7 "$OUTBOARD_BYTES"
held reset
same cid 3 "$($vsock cid)"
check afterwards $vsock copy stream 2 7 "$OUTBOARD_BYTES"
