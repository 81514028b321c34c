# A card with a tap interface of the host behind it: all ways of sending, and the host answers.
. /scenario/net.sh
up 192.0.2.2 fd00::2
for bit in 0 1 7 8 11 12; do
    same "offload-$bit" "$OUTBOARD_OFFLOADS" "$(feature $card/device $bit)"
done
reach ping 192.0.2.1 fd00::1
check long-ping ping -c 3 -i 0.1 -W 5 -s 8000 192.0.2.1
copies host 16777216 1000 192.0.2.1 fd00::1
iperf up 192.0.2.1
iperf down fd00::1 -R
iperf udp 192.0.2.1 -u -b 50M -t 1
right_checksums checksums
