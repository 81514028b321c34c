# The machine that asks the other one: all ways of sending.
. /scenario/net.sh
up 10.0.0.2 fd00::2
reach ping 10.0.0.1 fd00::1
check long-ping ping -c 3 -i 0.1 -W 5 -s 8000 10.0.0.1
copies other 16777216 1000 10.0.0.1 fd00::1
iperf there 10.0.0.1
iperf back fd00::1 -R
iperf udp 10.0.0.1 -u -b 50M -t 1
right_checksums checksums
