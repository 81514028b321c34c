# The input device that is called typist: $node in sysfs, and $event.
for module in virtio_input evdev; do
    [ -e "/modules/$module.ko" ] && insmod "/modules/$module.ko"
done
node=
for try in 1 2 3 4 5 6 7 8 9 10; do
    for device in /sys/class/input/event*; do
        [ "$(cat "$device/device/name" 2>/dev/null)" = typist ] && node=$device
    done
    [ -n "$node" ] && break
    sleep 0.5
done
event=/dev/input/${node##*/}
check node wait_for "$event"
