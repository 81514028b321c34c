# A card with user-mode networking behind it: addresses come by themselves, and what is on the host's loopback interface is
# reached by the gateway's address.
. /scenario/net.sh
gateway=10.0.2.2
gateway6=fd00::2
cat >/tmp/lease.sh <<'EOF'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "$router"
echo "$dns" >/tmp/dns
EOF
chmod +x /tmp/lease.sh
check card wait_for $card
same packed "$OUTBOARD_PACKED" "$(feature $card/device 34)"
ip link set lo up
ip link set eth0 up
check lease udhcpc -i eth0 -n -q -t 10 -T 1 -s /tmp/lease.sh
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

/guest-net serve 7000 >/tmp/serve 2>&1 &
tries=0
until grep -q ':1B58 .* 0A ' /proc/net/tcp6 || [ $tries -ge 100 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
value serving 1
read -r line </dev/console
same said '' "$(cat /tmp/serve)"
right_checksums checksums
