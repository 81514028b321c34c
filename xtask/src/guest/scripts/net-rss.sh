# A card whose driver has what it receives spread over its queues by hashes. The host computes on which queue each flow should be.
. /scenario/net.sh
up 10.0.0.2 fd00::2
for bit in 22 57 60; do
    same "feature-$bit" 1 "$(feature $card/device $bit)"
done
ip addr add 10.0.1.2/24 dev eth0
ip addr add 10.0.2.2/24 dev eth0
reach first 10.0.0.1 fd00::1

# told NAME VALUE: the host looks.
told() {
    value "$@"
    read -r line </dev/console
}

# flow PROTOCOL ADDRESS PORT COMMAND...: what comes to that port of ours from that address; port 0 is none of UDP and TCP.
flow() {
    what="$1 $2 $3"
    flows=$((flows + 1))
    # The next socket gets this one.
    [ "$3" = 0 ] || echo "$3 $3" >/proc/sys/net/ipv4/ip_local_port_range
    shift 3
    told begins "$what"
    check "flow-$flows" "$@"
    told ends "$table $what"
}

# flows NAME PORT: of all kinds, with the table as it is now.
flows() {
    table=$1
    port=$2
    $programs/ethtool -x eth0 >/tmp/spread
    value "table-$table" "$(awk '$1 ~ /^[0-9]+:$/ { for (i = 2; i <= NF; i++) printf "%s ", $i }' /tmp/spread)"
    value "key-$table" "$(grep -E '^([0-9a-f]{2}:){39}' /tmp/spread)"
    for address in 10.0.0.1 10.0.1.1 10.0.2.1 fd00::1; do
        flow ip $address 0 ping -c 20 -i 0.02 -W 5 $address
    done
    for address in 10.0.0.1 fd00::1; do
        for protocol in udp udp udp tcp tcp tcp; do
            port=$((port + 1))
            case $protocol in
            udp) flow udp $address $port /guest-net copy udp $address 7000 100 $port 1400 ;;
            tcp) flow tcp $address $port /guest-net copy tcp $address 7000 1048576 $port ;;
            esac
        done
    done
}

flows=0
check two $programs/ethtool -X eth0 equal 2
flows even 40000
check weights $programs/ethtool -X eth0 weight 1 3 hkey 6d:5a:56:da:25:5b:0e:c2:41:67:25:3d:43:a3:8f:b0:d0:ca:2b:cb:ae:7b:30:b4:77:cb:2d:a3:80:30:f2:0c:6a:42:b7:3b:be:ac:01:fa
flows uneven 41000
check one $programs/ethtool -X eth0 weight 0 1
flows one 42000
right_checksums checksums
