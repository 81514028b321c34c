# A socket device: the host pauses the machine while bytes go there and back.
check device wait_for /dev/vsock
check copy /guest-vsock copy stream 2 1234 "$OUTBOARD_BYTES"
check once-more /guest-vsock copy stream 2 7 100000
