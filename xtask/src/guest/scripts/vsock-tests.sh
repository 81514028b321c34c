# The kernel's own tests of sockets: which are run, by whom, and how they went.

# leave_out NAME...: the next tests are all but those of these names.
leave_out() {
    skips=
    for name in "$@"; do
        number=$(/vsock_test --list | awk -F '\t' -v name="$name" '$2 == name { print $1 }')
        [ -n "$number" ] || fail no-such-test "$name"
        skips="$skips --skip=$number"
    done
    # A line each, one above them, and one that the other end has finished, too.
    tests=$(($(/vsock_test --list | wc -l) - $#))
    check tests [ "$tests" -gt 15 ]
}

# judge ROLE: how the tests went.
judge() {
    same "$1" "$tests" "$(grep -c 'ok$' /tmp/tests)"
    grep -v 'ok$' /tmp/tests
}

# serve PORT PEER-CID: as the one whom the other end asks, by this port of the network.
serve() {
    /vsock_test --mode=server --control-port="$1" --peer-cid="$2" $skips >/tmp/tests 2>&1
}

# ask HOST PORT PEER-CID: as the one who asks. The other end may still be starting: until it listens, no test begins.
ask() {
    tries=0
    until [ $tries -ge 120 ]; do
        /vsock_test --mode=client --control-host="$1" --control-port="$2" --peer-cid="$3" $skips >/tmp/tests 2>&1
        grep -q '^0 - ' /tmp/tests && break
        tries=$((tries + 1))
        sleep 0.5
    done
    judge client
}
