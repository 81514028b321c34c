# A card with user-mode networking behind it: addresses come by themselves, and what is on the host's loopback interface is
# reached by the gateway's address.
. /scenario/net.sh
gateway=10.0.2.2
gateway6=fd00::2
check card wait_for $card
same packed "$OUTBOARD_PACKED" "$(feature $card/device 34)"
lease
same address '10.0.2.15/24' "$(ip -4 addr show eth0 | sed -n 's/.*inet \([^ ]*\).*/\1/p')"
same resolver 10.0.2.3 "$(cut -d' ' -f1 /tmp/dns)"
reach ping $gateway

check fetch wget -q -O /tmp/file http://$gateway:8000/file
same content "$OUTBOARD_DIGEST" "$(digest /tmp/file)"
check name nslookup outboard.test 10.0.2.3
same answer 1 "$(grep -c 'Address.*192\.0\.2\.99' /tmp/output)"
refused nobody-listens wget -q -T 5 -O /tmp/none http://$gateway:8001/file
copies host 8388608 500 $gateway

tries=0
until ip -6 addr show dev eth0 scope global | grep -v tentative | grep -q inet6 || [ $tries -ge 100 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
value address6 "$(ip -6 addr show dev eth0 scope global | sed -n 's/.*inet6 \([^ ]*\).*/\1/p')"
reach ping $gateway6
copies host 8388608 500 $gateway6

for round in $(seq 10); do
    for number in $(seq 20); do
        /guest-net copy tcp $gateway 7000 20000 $((round * 20 + number)) >/dev/null 2>>/tmp/many || echo failed >>/tmp/many &
    done
    wait
done
same many-connections '' "$(head -n 3 /tmp/many)"

serve
right_checksums checksums
