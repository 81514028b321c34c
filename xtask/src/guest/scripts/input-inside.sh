# Input devices that a kernel has: the program runs in here, on the one that is simulated outside, and a driver of ours looks at it.
. /scenario/inner.sh
. /scenario/typist.sh

# listen WORDS...: a driver that says to /tmp/said what comes, and has begun.
listen() {
    $loader --library-path /host /host/input /tmp/inner.sock "$@" >/tmp/said 2>&1 &
    driver=$!
    tries=0
    until grep -q listening /tmp/said; do
        tries=$((tries + 1))
        [ "$tries" -gt 100 ] && break
        sleep 0.1
    done
}

serve vhost-user-input --evdev-path "$event"
words name "typist " input name
words serial "serial-7 " input serial
words ids "0300341222110001 " input ids
words lights "07 " input bits:17

# What is typed outside comes here, and nothing of it to others: the device is grabbed.
dd if="$event" of=/tmp/others bs=24 count=1 2>/dev/null &
others=$!
listen "events:$OUTBOARD_EVENTS" led:1=1
value ready yes
wait $driver
value events "$(tail -n 1 /tmp/said)"
same others-hear-nothing 0 "$(stat -c %s /tmp/others)"
kill $others
wait $others
value light yes
read -r _
ends

# It is unplugged while a key is down: the key is let go, and then nothing comes.
serve vhost-user-input --evdev-path "$event"
listen until:1/30/0
value press yes
read -r _
device=$(readlink -f "$node/device/device")
echo "${device##*/}" >/sys/bus/virtio/drivers/virtio_input/unbind
wait $driver
# The kernel repeats it meanwhile.
value unplugged "$(tail -n 1 /tmp/said | tr ' ' '\n' | grep -v 1/30/2 | uniq | tr '\n' ' ')"
ends
