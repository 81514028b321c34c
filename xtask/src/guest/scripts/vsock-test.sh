# The kernel's own tests of sockets with another guest, in both roles. They agree on their steps over a network.
. /scenario/vsock-tests.sh
check device wait_for /dev/vsock
check card wait_for /sys/class/net/eth0
ip link set lo up
ip link set eth0 up
ip addr add "10.0.0.$OUTBOARD_NUMBER/24" dev eth0
other="10.0.0.$OUTBOARD_PEER"

# One that takes for granted that the end of a connection overtakes a packet of the network.
leave_out "SOCK_STREAM SHUT_RD"
if [ "$OUTBOARD_NUMBER" = 1 ]; then
    serve 1234 "$OUTBOARD_PEER_CID"
    judge server
    ask "$other" 1235 "$OUTBOARD_PEER_CID"
else
    ask "$other" 1234 "$OUTBOARD_PEER_CID"
    serve 1235 "$OUTBOARD_PEER_CID"
    judge server
fi
