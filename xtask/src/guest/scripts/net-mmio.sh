# A card on virtio-mmio with a tap interface of the host behind it: a file there and back, and as fast as it goes.
. /scenario/net.sh
up 192.0.2.2 fd00::2
for bit in 0 1 7 8 11 12; do
    same "offload-$bit" 1 "$(feature $card/device $bit)"
done
reach ping 192.0.2.1 fd00::1
check long-ping ping -c 3 -i 0.1 -W 5 -s 8000 192.0.2.1
check fetch wget -q -O /tmp/file http://192.0.2.1:8000/file
same content "$OUTBOARD_DIGEST" "$(digest /tmp/file)"
iperf up 192.0.2.1
iperf down fd00::1 -R
mkdir /tmp/files
mv /tmp/file /tmp/files
check httpd httpd -p 8000 -h /tmp/files
value serving 1
read -r line </dev/console
right_checksums checksums
