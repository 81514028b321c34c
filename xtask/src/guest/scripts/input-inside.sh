# Input devices that a kernel has: the program runs in here, on the one that is simulated outside, and a driver of ours looks at it.
. /scenario/inner.sh
. /scenario/typist.sh

# left: all front ends that came are gone, and the program knows it.
left() {
    tries=0
    until [ "$(grep -c 'front end connected' /tmp/inner.log)" = "$(grep -c 'front end disconnected' /tmp/inner.log)" ]; do
        tries=$((tries + 1))
        [ "$tries" -gt 100 ] && return 1
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
value light yes
read -r _
# Without a front end the others have it again: those who have waited as well as those who come.
dd if="$event" of=/tmp/later bs=24 count=1 2>/dev/null &
later=$!
check left left
value released yes
wait $others $later
same others-hear-again "24 24" "$(stat -c %s /tmp/others) $(stat -c %s /tmp/later)"
ends

# With --no-grab they hear the same.
serve vhost-user-input --evdev-path "$event" --no-grab
dd if="$event" of=/tmp/others bs=24 count="$OUTBOARD_EVENTS" 2>/dev/null &
others=$!
listen "events:$OUTBOARD_EVENTS"
value shared yes
wait $driver $others
value shared-events "$(tail -n 1 /tmp/said)"
hexdump -v -e '32/1 "%02x" "\n"' /tmp/others | tr -d ' ' | sed 's/^/OUTBOARD-DATA others /'
ends

# It is unplugged while a key is down: the key is let go, and then nothing comes.
serve vhost-user-input --evdev-path "$event"
listen until:1/30/0
value press yes
read -r _
device=$(readlink -f "$node/device/device")
device=${device##*/}
echo "$device" >/sys/bus/virtio/drivers/virtio_input/unbind
wait $driver
value unplugged "$(tail -n 1 /tmp/said)"
# The program stays, and the guest's device too, with all that was said of it: also for a front end that comes now.
words still "typist 07 " input name bits:17
check gone says /tmp/inner.log "$event is gone"
check lives kill -0 $inner
ends
refused unplugged "$loader" --library-path /host /host/vhost-user-input --socket-path /tmp/never.sock --evdev-path "$event"

# With --evdev-wait it is used again when it is back.
echo "$device" >/sys/bus/virtio/drivers/virtio_input/bind
check bound wait_for "$event"
serve vhost-user-input --evdev-path "$event" --evdev-wait
listen until:1/2e/1
echo "$device" >/sys/bus/virtio/drivers/virtio_input/unbind
check gone-for-a-while says /tmp/inner.log "$event is gone"
echo "$device" >/sys/bus/virtio/drivers/virtio_input/bind
check back says /tmp/inner.log "$event is back"
value back yes
wait $driver
same heard 1/2e/1 "$(tail -n 1 /tmp/said | sed 's/.* //')"
ends
