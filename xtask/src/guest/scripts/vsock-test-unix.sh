# The kernel's own tests of sockets with programs of the host, who have them by UNIX sockets, in both roles. They agree on
# their steps over a network. Of UNIX sockets, the end of a record (MSG_EOR) is not known.
. /scenario/vsock-tests.sh
check device wait_for /dev/vsock
check card wait_for /sys/class/net/eth0
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0

# The host receives: a UNIX socket that is shut for reading says so only to whoever writes to it, and knows neither a size of
# its own for what may be on its way nor how much it takes to be readable.
leave_out "SOCK_SEQPACKET msg bounds" "SOCK_STREAM SHUT_RD" "SOCK_STREAM virtio credit update + SO_RCVLOWAT" \
    "SOCK_STREAM virtio credit update + low rx_bytes"
ask 10.0.2.2 "$OUTBOARD_CONTROL" 2

# The host asks: a UNIX socket does not wait for SO_RCVLOWAT, has no size as those of AF_VSOCK have, and no MSG_ZEROCOPY; and
# the end of a connection need not overtake a packet of the network.
leave_out "SOCK_SEQPACKET msg bounds" "SOCK_STREAM SHUT_RD" "SOCK_STREAM poll() + SO_RCVLOWAT" \
    "SOCK_SEQPACKET big message" "SOCK_STREAM MSG_ZEROCOPY" "SOCK_SEQPACKET MSG_ZEROCOPY" \
    "SOCK_STREAM MSG_ZEROCOPY empty MSG_ERRQUEUE"
serve 1235 2 &
server=$!
says /tmp/tests listening
value serving "$(head -n 1 /tmp/tests)"
wait $server
judge server
