# What the program does with real block devices: it runs in here, over a disk that erases, a zoned one, and one that is
# polled.
disk=/dev/vda
check device wait_for $disk
loader="/host/$(ls /host | grep '^ld-linux')"

# serve DEVICE OPTIONS...: starts the program.
serve() {
    rm -f /tmp/inner.sock
    $loader --library-path /host /host/vhost-user-blk --socket-path /tmp/inner.sock --num-queues 1 --blk-file "$@" >/tmp/inner.log 2>&1 &
    inner=$!
    check "serve-$1" wait_for /tmp/inner.sock
}

# drive NAME WORDS...: what the example driver for zones makes of it.
drive() {
    name=$1
    shift
    check "$name" $loader --library-path /host /host/zones /tmp/inner.sock "$@"
}

ends() {
    kill $inner
    wait $inner
    [ -s /tmp/inner.log ] && value "$1-log" "$(tail -n 4 /tmp/inner.log | tr '\n' ' ')"
}

# Linux erases the disk.
dd if=/dev/urandom of=/tmp/pattern bs=4096 count=64 2>/dev/null
check write /guest-writer copy $disk /tmp/pattern 0 0 512
check secure-discard $programs/blkdiscard --secure -o 65536 -l 65536 $disk
dd if=/dev/zero of=/tmp/zeroes bs=4096 count=16 2>/dev/null
dd if=$disk of=/tmp/back bs=65536 skip=1 count=1 iflag=direct 2>/dev/null
check erased cmp /tmp/zeroes /tmp/back
dd if=$disk of=/tmp/back bs=65536 count=1 iflag=direct 2>/dev/null
check left-alone cmp -n 65536 /tmp/pattern /tmp/back
# The program has Linux erase it.
serve $disk
drive erase erase
ends erase
# A device of 4 KiB blocks does not pass for one of 512 bytes.
check null-block-4k insmod /modules/null_blk.ko nr_devices=1 gb=1 bs=4096
check null-device-4k wait_for /dev/nullb0
refused smaller-blocks $loader --library-path /host /host/vhost-user-blk --socket-path /tmp/never.sock --block-size 512 --blk-file /dev/nullb0
rmmod null_blk
# A zoned device.
check null-block insmod /modules/null_blk.ko nr_devices=1 gb=1 zoned=1 zone_size=4 zone_nr_conv=2 zone_max_open=3 zone_max_active=4 memory_backed=1
check null-device wait_for /dev/nullb0
same null-zoned host-managed "$(cat /sys/block/nullb0/queue/zoned)"
serve /dev/nullb0
drive show
drive exercise exercise
drive exercise-again exercise
ends zoned
same left-empty 1 "$($programs/blkzone report -o $((2 * 8192)) -c 1 /dev/nullb0 | grep -c '(em)')"
rmmod null_blk
# A disk that can be polled, and whose interrupts come a second late: the 40 batches take 40 seconds by them.
check null-block-polled insmod /modules/null_blk.ko nr_devices=1 gb=1 bs=4096 memory_backed=1 poll_queues=1 irqmode=2 completion_nsec=1000000000
check null-device-polled wait_for /dev/nullb0
same null-polls 1 "$(cat /sys/block/nullb0/queue/io_poll)"
serve /dev/nullb0 --direct --io-uring-iopoll --log-level debug
start=$(cut -d. -f1 /proc/uptime)
drive polled pages
seconds=$(($(cut -d. -f1 /proc/uptime) - start))
value polled-seconds $seconds
check polled-in-time [ $seconds -lt 35 ]
kill $inner
wait $inner
same polled-operations 1280 "$(sed -n 's/.*were polled.*operations=\([0-9]*\).*/\1/p' /tmp/inner.log)"
# The first page of the last round.
tr '\0' '\023' </dev/zero | head -c 4096 >/tmp/first
dd if=/dev/nullb0 of=/tmp/back bs=4096 count=1 iflag=direct 2>/dev/null
check polled-data cmp /tmp/first /tmp/back
rmmod null_blk
dmesg -c >/dev/null
