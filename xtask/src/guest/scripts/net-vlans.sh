# The machine with tags: of two VLANs, and of those that it has, the neighbour is in one.
. /scenario/net.sh
check vlans insmod /modules/8021q.ko
up 10.0.2.2 fd02::2
for id in 10 20; do
    check "vlan-$id" ip link add link eth0 name eth0.$id type vlan id $id
    echo 0 >/proc/sys/net/ipv6/conf/eth0.$id/accept_dad
    ip link set eth0.$id up
done
ip addr add 10.0.0.2/24 dev eth0.10
ip addr add fd00::2/64 dev eth0.10
ip addr add 10.0.1.2/24 dev eth0.20

reach tagged 10.0.0.1 fd00::1
copies tagged 4194304 200 10.0.0.1 fd00::1
iperf tagged-back fd00::1 -R
refused other-vlan ping -c 2 -W 1 10.0.1.1
refused no-tag ping -c 2 -W 1 10.0.2.1

value move 1
read -r line </dev/console
reach moved 10.0.1.1
copies moved 1048576 100 10.0.1.1
refused left-behind ping -c 2 -W 1 10.0.0.1

value no-vlan 1
read -r line </dev/console
refused nowhere ping -c 2 -W 1 10.0.1.1
value native 1
read -r line </dev/console
reach native 10.0.2.1
copies native 1048576 100 10.0.2.1
right_checksums checksums
