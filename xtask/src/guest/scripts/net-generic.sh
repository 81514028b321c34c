# A card whose control queue is passed on: what the driver sets is set in the back end.
. /scenario/net.sh
up 10.0.0.2 fd00::2
for bit in 17 18 19 21 22 23; do
    same "feature-$bit" 1 "$(feature $card/device $bit)"
done
reach first 10.0.0.1 fd00::1

# channels NAME COUNT: so many pairs of queues are in use.
channels() {
    check "$1" $programs/ethtool -L eth0 combined "$2"
    same "$1-in-use" "$2" "$($programs/ethtool -l eth0 | awk '/^Combined:/ { count = $2 } END { print count }')"
    value "$1" "$2"
    read -r line </dev/console
}

channels two 2
copies two 4194304 200 10.0.0.1 fd00::1
channels one 1
copies one 1048576 100 10.0.0.1
check promiscuous ip link set eth0 promisc on
reach promiscuous 10.0.0.1
check not-promiscuous ip link set eth0 promisc off
check all-multicast ifconfig eth0 allmulti
check not-all-multicast ifconfig eth0 -allmulti
reach filtered 10.0.0.1 fd00::1

# With another address, frames to the old one do not come any more.
ip link set eth0 down
check other-address ip link set eth0 address 52:54:00:12:34:77
ip link set eth0 up
ip addr add fd00::2/64 dev eth0
reach other-address 10.0.0.1 fd00::1
value other-address 1
read -r line </dev/console

# Long frames are cut by whoever delivers them, once the driver does not want them.
check no-large-frames $programs/ethtool -K eth0 rx-gro-hw off
copies small 1048576 100 10.0.0.1
check large-frames $programs/ethtool -K eth0 rx-gro-hw on
copies large 1048576 100 10.0.0.1

value link-off 1
carrier link-off 0
value link-on 1
carrier link-on 1
reach after-link 10.0.0.1 fd00::1
value announce 1
read -r line </dev/console
reach after-announcement 10.0.0.1
right_checksums checksums
