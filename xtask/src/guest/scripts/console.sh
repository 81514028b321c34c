# A console with a login, and ports with names: what the host sends comes back, and what comes and goes is seen.
. /scenario/login.sh
same version-1 1 "$(feature "$1" 32)"
same size-agreed 1 "$(feature "$1" 0)"

# found NAME: where the port of that name is, as soon as it is there.
found() {
    tries=0
    while [ "$tries" -lt 100 ]; do
        for port in /sys/class/virtio-ports/*; do
            if [ "$(cat "$port/name" 2>/dev/null)" = "$1" ]; then
                echo "/dev/${port##*/}"
                return
            fi
        done
        tries=$((tries + 1))
        sleep 0.1
    done
}

port=$(found org.outboard.echo)
check named [ -c "$port" ]
dd if=/dev/urandom of=/tmp/random bs=64k count=16 2>/dev/null
value port ready
# A port is opened once at a time.
exec 3<>"$port"
: >/tmp/back
# As long as nobody is at the other end, there is nothing to read.
while have=$(stat -c %s /tmp/back) && [ "$have" -lt 1048576 ]; do
    head -c $((1048576 - have)) <&3 >>/tmp/back
    sleep 0.1
done &
reader=$!
cat /tmp/random >&3
wait $reader
exec 3<&-
same every-byte "$(digest /tmp/random)" "$(digest /tmp/back)"

value login "$(uname -r)"
read -r _

value add ready
late=$(found org.outboard.late)
check added [ -c "$late" ]
exec 3<>"$late"
echo hello >&3
read -r line <&3
exec 3<&-
same late hello "$line"
value remove ready
tries=0
while [ -e "$late" ] && [ "$tries" -lt 100 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
refused removed [ -e "$late" ]
