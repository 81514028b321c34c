# A card with two pairs of queues and a tap interface behind it: each processor has one, as long as there are two.
. /scenario/net.sh
up 192.0.2.2 fd00::2

# in_use NAME COUNT: so many pairs are; the host looks, too.
in_use() {
    same "$1-in-use" "$2" "$($programs/ethtool -l eth0 | awk '/^Combined:/ { count = $2 } END { print count }')"
    value "$1" "$2"
    read -r line </dev/console
}

# both NAME: a copy on each processor.
both() {
    taskset 1 /guest-net copy tcp 192.0.2.1 7000 8388608 1 >/tmp/first 2>&1 &
    first=$!
    check "$1-second" taskset 2 /guest-net copy tcp fd00::1 7000 8388608 2
    check "$1-first" wait $first
}

reach ping 192.0.2.1 fd00::1
both at-first
in_use at-first 2
check one $programs/ethtool -L eth0 combined 1
both one
in_use one 1
check two $programs/ethtool -L eth0 combined 2
both two
in_use two 2
right_checksums checksums
