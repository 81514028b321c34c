# The kernel's own tests of sockets with another guest, in both roles. They agree on their steps over a network.
check device wait_for /dev/vsock
check card wait_for /sys/class/net/eth0
ip link set lo up
ip link set eth0 up
ip addr add "10.0.0.$OUTBOARD_NUMBER/24" dev eth0
peer="--peer-cid=$OUTBOARD_PEER_CID"

# Left out: one that takes for granted that the end of a connection overtakes a packet of the network.
skipped=$(/vsock_test --list | grep 'SOCK_STREAM SHUT_RD$' | cut -f 1)
peer="$peer --skip=$skipped"
# A line each but that one, and one above them.
tests=$(($(/vsock_test --list | wc -l) - 1))
check tests [ "$tests" -gt 20 ]

# judge ROLE: how the tests went. A line each, and one that the other guest has finished, too.
judge() {
    same "$1" "$tests" "$(grep -c 'ok$' /tmp/tests)"
    grep -v 'ok$' /tmp/tests
}

serve() {
    /vsock_test --mode=server --control-port="$1" $peer >/tmp/tests 2>&1
    judge server
}

# The other guest may still be starting: until it listens, no test begins.
ask() {
    tries=0
    until [ $tries -ge 120 ]; do
        /vsock_test --mode=client --control-host="10.0.0.$OUTBOARD_PEER" --control-port="$1" $peer >/tmp/tests 2>&1
        grep -q '^0 - ' /tmp/tests && break
        tries=$((tries + 1))
        sleep 0.5
    done
    judge client
}

if [ "$OUTBOARD_NUMBER" = 1 ]; then
    serve 1234
    ask 1235
else
    ask 1234
    serve 1235
fi
