# A card with passt behind it: an address comes by itself, and what is on the host's loopback interface is reached by the
# gateway's address.
. /scenario/net.sh
check card wait_for $card
same packed "$OUTBOARD_PACKED" "$(feature $card/device 34)"
lease
gateway=$(ip route | awk '/^default/ { print $3 }')
value gateway "$gateway"
check fetch wget -q -O /tmp/file http://$gateway:8000/file
same content "$OUTBOARD_DIGEST" "$(digest /tmp/file)"
refused nobody-listens wget -q -T 5 -O /tmp/none http://$gateway:8001/file
# It takes no fragments.
check host-tcp /guest-net copy tcp "$gateway" 7000 8388608 1
check host-udp /guest-net copy udp "$gateway" 7000 500 2 1400
serve
right_checksums checksums
