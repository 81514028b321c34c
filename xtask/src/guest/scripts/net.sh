# What the scenarios of networks share.
card=/sys/class/net/eth0

# up ADDRESS-4 ADDRESS-6: the card with its addresses, and the packets that the host said.
up() {
    check card wait_for $card
    same mtu-offered "$OUTBOARD_MTU" "$(cat $card/mtu)"
    same version-1 1 "$(feature $card/device 32)"
    same packed "$OUTBOARD_PACKED" "$(feature $card/device 34)"
    ip link set lo up
    # The address is nobody else's.
    echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
    ip link set eth0 up
    ip addr add "$1/24" dev eth0
    ip addr add "$2/64" dev eth0
}

# reach NAME ADDRESS...: a machine that may still be starting answers to ping, by IPv4 and IPv6.
reach() {
    what=$1
    shift
    for address in "$@"; do
        tries=0
        until ping -c 1 -W 1 "$address" >/tmp/ping 2>&1 || [ $tries -ge 60 ]; do
            tries=$((tries + 1))
        done
        check "$what-$address" ping -c 3 -i 0.1 -W 5 "$address"
    done
}

# copies NAME BYTES DATAGRAMS ADDRESS...: over TCP and UDP, both ways, every byte compared at both ends. Long datagrams are
# fragments.
copies() {
    what=$1
    bytes=$2
    datagrams=$3
    shift 3
    for address in "$@"; do
        check "$what-tcp-$address" /guest-net copy tcp "$address" 7000 "$bytes" $((checks + 1))
        value "$what-tcp-$address" "$(cat /tmp/output)"
        check "$what-udp-$address" /guest-net copy udp "$address" 7000 "$datagrams" $((checks + 1)) $((OUTBOARD_MTU - 48))
        check "$what-fragments-$address" /guest-net copy udp "$address" 7000 50 $((checks + 1)) 20000
        value "$what-udp-$address" "$(cat /tmp/output)"
    done
}

# right_checksums NAME: nothing that came had a wrong one.
right_checksums() {
    wrong=$(awk '
        /^(Tcp|Udp|Icmp):/ {
            if (!($1 in names)) { names[$1] = $0; next }
            count = split(names[$1], name)
            for (i = 1; i <= count; i++) if (name[i] == "InCsumErrors") sum += $i
        }
        /InCsumErrors/ && NF == 2 { sum += $2 }
        END { print sum + 0 }' /proc/net/snmp /proc/net/snmp6)
    same "$1" 0 "$wrong"
}

# carrier NAME STATE: up to ten seconds.
carrier() {
    tries=0
    while [ "$(cat $card/carrier)" != "$2" ] && [ $tries -lt 100 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    same "$1" "$2" "$(cat $card/carrier)"
}
