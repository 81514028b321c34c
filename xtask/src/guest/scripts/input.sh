# An input device: what it says of itself, the events that come, and a light that is switched on.
. /scenario/typist.sh
same name typist "$(cat "$node/device/name")"
same serial "serial-7" "$(cat "$node/device/uniq")"
same ids "0003 1234 abcd 0100" "$(cd "$node/device/id" && echo "$(cat bustype) $(cat vendor) $(cat product) $(cat version)")"
same types "120007" "$(cat "$node/device/capabilities/ev")"
same lights "7" "$(cat "$node/device/capabilities/led")"
same axes "143" "$(cat "$node/device/capabilities/rel")"
set -- /sys/bus/virtio/drivers/virtio_input/virtio*
same version-1 1 "$(feature "$1" 32)"
same packed "$OUTBOARD_PACKED" "$(feature "$1" 34)"
dd if="$event" of=/tmp/events bs=24 count="$OUTBOARD_EVENTS" 2>/dev/null &
reader=$!
sleep 0.5
value ready yes
wait $reader
same length "$((OUTBOARD_EVENTS * 24))" "$(stat -c %s /tmp/events)"
hexdump -v -e '32/1 "%02x" "\n"' /tmp/events | tr -d ' ' | sed 's/^/OUTBOARD-DATA events /'
# LED_CAPSL on: time, type 0x11, code 1, value 1.
printf '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\021\0\001\0\001\0\0\0' >"$event"
sleep 1
value light yes
read -r _
