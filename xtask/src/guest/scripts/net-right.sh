# The machine that asks the other one: all ways of sending.
. /scenario/net.sh
up 10.0.0.2 fd00::2
reach ping 10.0.0.1 fd00::1
check long-ping ping -c 3 -i 0.1 -W 5 -s 8000 10.0.0.1
copies other 16777216 1000 10.0.0.1 fd00::1
check iperf-there $programs/iperf3 -c 10.0.0.1 -t 2
value iperf-there "$(grep receiver /tmp/output)"
check iperf-back $programs/iperf3 -6 -c fd00::1 -t 2 -R
value iperf-back "$(grep receiver /tmp/output)"
check iperf-udp $programs/iperf3 -c 10.0.0.1 -u -b 50M -t 1
value iperf-udp "$(grep receiver /tmp/output)"
right_checksums checksums
