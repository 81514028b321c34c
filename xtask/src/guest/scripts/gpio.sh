# A GPIO controller with a simulated chip of eight lines, of which 0 is wired to 1; 2 is high from outside. Linux's driver for it
# is looked at through its character device: by our own back end, which runs in here, and our driver.
. /scenario/inner.sh
device=$(echo /sys/bus/virtio/drivers/gpio_virtio/virtio*)
check driver [ -e "$device/features" ]
same version-1 1 "$(feature "$device" 32)"
same packed "$OUTBOARD_PACKED" "$(feature "$device" 34)"
same interrupts-agreed 1 "$(feature "$device" 0)"
label=$(basename "$device")
serve vhost-user-gpio --chip "$label"
words names "relay,sense,,,,,, " gpio names
words outside "1 " gpio in:2 get:2
# A level that comes with the direction, and those after it.
words wired "1 0 1 " gpio in:1 out:0=1 get:1 set:0=0 get:1 set:0=1 get:1
words read-only "out:3=1: the device refuses " gpio out:3=1
# Interrupts, which the guest's driver has from the one outside. Its own edges are told by the level that it reads.
words rising "interrupt 1 " gpio in:1 out:0=0 irq:1=rising unmask:1 set:0=1 wait:1 get:1
words falling "interrupt 0 " gpio in:1 out:0=1 irq:1=falling unmask:1 set:0=0 wait:1 get:1
words both "interrupt interrupt " gpio in:1 out:0=0 irq:1=both unmask:1 set:0=1 wait:1 unmask:1 set:0=0 wait:1
ends
# The kernel tells of the request that was refused.
dmesg -c >/dev/null
