# The machine that answers, until the host says that nobody asks any more.
. /scenario/net.sh
up 10.0.0.1 fd00::1
# For neighbours with several cards.
ip addr add 10.0.1.1/24 dev eth0
ip addr add 10.0.2.1/24 dev eth0
/guest-net serve 7000 >/tmp/serve 2>&1 &
$programs/iperf3 -s >/dev/null 2>&1 &
value ready 1
read -r line </dev/console
same said '' "$(cat /tmp/serve)"
right_checksums checksums
