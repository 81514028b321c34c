# A socket device: connections to a service of the back end, to a program of the host, and from the host.
check device wait_for /dev/vsock
vsock=/guest-vsock
same cid 3 "$($vsock cid)"
value features "$(cat /sys/bus/virtio/drivers/vmw_vsock_virtio_transport/virtio*/features)"
check echo $vsock copy stream 2 7 "$OUTBOARD_BYTES"
check messages $vsock copy seqpacket 2 7 "$OUTBOARD_BYTES"
check half $vsock half 2 1234 "$OUTBOARD_BYTES"
check many $vsock many 2 7 200
check refused $vsock refused 2 99
check denied $vsock refused 2 13
check nobody $vsock refused 77 7
$vsock serve stream 5000 >/tmp/served 2>&1 &
says /tmp/served listening
value ready "$(cat /tmp/served)"
# The host connects now, and writes here when it is done.
read -r line
same host done "$line"
# The guest does not see the queue of events: it hears of each connection for itself.
held ended
check afterwards $vsock copy stream 2 7 "$OUTBOARD_BYTES"
