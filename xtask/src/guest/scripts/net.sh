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

# until_told BYTES: copies from the neighbour, by TCP and UDP, until the host types a line.
until_told() {
    (
        read -r line
        : >/tmp/stop
    ) </dev/console &
    passes=0
    while [ ! -e /tmp/stop ] || [ $passes -eq 0 ]; do
        passes=$((passes + 1))
        /guest-net copy tcp 10.0.0.1 7000 "$1" $passes >/dev/null 2>>/tmp/wrong
        /guest-net copy udp fd00::1 7000 100 $passes 1400 >/dev/null 2>>/tmp/wrong
        value passes $passes
    done
    same copies '' "$(cat /tmp/wrong)"
}

# lease: an address by DHCP, with a route, and a resolver in /tmp/dns.
lease() {
    cat >/tmp/lease.sh <<'EOF'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "$router"
echo "$dns" >/tmp/dns
EOF
    chmod +x /tmp/lease.sh
    ip link set lo up
    ip link set eth0 up
    check lease udhcpc -i eth0 -n -q -t 10 -T 1 -s /tmp/lease.sh
}

# serve: answers the host until it says that it does not ask any more.
serve() {
    /guest-net serve 7000 >/tmp/serve 2>&1 &
    tries=0
    until grep -q ':1B58 .* 0A ' /proc/net/tcp6 || [ $tries -ge 100 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    value serving 1
    read -r line </dev/console
    same said '' "$(cat /tmp/serve)"
}

# iperf NAME ADDRESS OPTION...: for two seconds; how fast it went, as the receiver has it.
iperf() {
    what=$1
    address=$2
    shift 2
    check "iperf-$what" $programs/iperf3 -c "$address" -t 2 "$@"
    value "iperf-$what" "$(grep receiver /tmp/output)"
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
