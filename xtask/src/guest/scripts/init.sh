#!/bin/busybox sh
# The first program of a test guest: makes a small system in memory, runs the
# scenario that the kernel command line names, and switches the machine off.
# What it prints for the host starts with OUTBOARD-.
/bin/busybox mkdir -p /bin /dev /proc /sys /tmp /mnt
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mount -t tmpfs tmpfs /tmp
exec </dev/console >/dev/console 2>&1
stty -echo 2>/dev/null
for module in $(cat /modules/order); do
    insmod "/modules/$module" || echo "OUTBOARD-FAIL insmod $module"
done
. /scenario/lib.sh
. "/scenario/$OUTBOARD_SCENARIO.sh"
finish
