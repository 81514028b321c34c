# The machine with two cards on the switch: while the first one talks, the port of the second goes and comes back, and then
# the neighbour's.
. /scenario/net.sh
# Each card answers for its own addresses.
echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore
echo 2 >/proc/sys/net/ipv4/conf/all/arp_announce
up 10.0.0.2 fd00::2
ip link set eth1 up
ip addr add 10.0.1.2/24 dev eth1
reach first 10.0.0.1 fd00::1 10.0.1.1

passes=0
echo 0 >/tmp/passes
while [ ! -e /tmp/stop ]; do
    passes=$((passes + 1))
    /guest-net copy tcp 10.0.0.1 7000 524288 $passes >/dev/null 2>>/tmp/wrong
    /guest-net copy udp fd00::1 7000 50 $passes 1400 >/dev/null 2>>/tmp/wrong
    # Whoever reads finds a number at any time.
    echo $passes >/tmp/passes.new
    mv /tmp/passes.new /tmp/passes
done &

# goes_on NAME: what is begun now comes to its end.
goes_on() {
    goal=$(($(cat /tmp/passes) + 2))
    tries=0
    while [ "$(cat /tmp/passes)" -lt $goal ] && [ $tries -lt 300 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    check "$1" [ "$(cat /tmp/passes)" -ge $goal ]
}

goes_on before
value file-goes 1
read -r line </dev/console
refused gone ping -c 2 -W 1 10.0.1.1
goes_on without
value file-comes 1
read -r line </dev/console
reach back 10.0.1.1
check back-copy /guest-net copy tcp 10.0.1.1 7000 1048576 1
goes_on with

value command 1
read -r line </dev/console
goes_on after
: >/tmp/stop
wait
same right '' "$(cat /tmp/wrong)"
reach at-last 10.0.0.1 fd00::1 10.0.1.1
right_checksums checksums
