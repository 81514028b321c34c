# A disk: what it says of itself, raw transfers, a file system, discard, flush.
disk=/dev/vda
block=/sys/block/vda
check device wait_for $disk
identity() {
    device=$(readlink -f $block/device)
    same size "$OUTBOARD_SECTORS" "$(cat $block/size)"
    same writable "$OUTBOARD_READ_ONLY" "$(cat $block/ro)"
    same serial "$OUTBOARD_SERIAL" "$(cat $block/serial)"
    same version-1 1 "$(feature "$device" 32)"
    same packed "$OUTBOARD_PACKED" "$(feature "$device" 34)"
    same queues "$OUTBOARD_QUEUES" "$(ls $block/mq | wc -l)"
    value features "$(cat "$device/features")"
}

raw() {
    dd if=/dev/urandom of=/tmp/pattern bs=1M count=4 2>/dev/null
    check direct-write dd if=/tmp/pattern of=$disk bs=64k seek=16 oflag=direct conv=notrunc
    check direct-read dd if=$disk of=/tmp/back bs=64k skip=16 count=64 iflag=direct
    check direct-same cmp /tmp/pattern /tmp/back
    # One sector at a time, and requests larger than a single segment.
    check sector-read dd if=$disk of=/tmp/back bs=512 skip=2048 count=64 iflag=direct
    check sector-same cmp -n 32768 /tmp/pattern /tmp/back
    check large-read dd if=$disk of=/tmp/back bs=4M skip=1048576 count=4194304 iflag=skip_bytes,count_bytes,direct
    check large-same cmp /tmp/pattern /tmp/back
}

zeroes() {
    dd if=/dev/zero of=/tmp/zeroes bs=1M count=1 2>/dev/null
    check write-zeroes $programs/blkdiscard -z -o 1048576 -l 1048576 $disk
    dd if=$disk of=/tmp/back bs=64k skip=16 count=16 iflag=direct 2>/dev/null
    check write-zeroes-reads-zeroes cmp /tmp/zeroes /tmp/back
    check discard $programs/blkdiscard -o 2097152 -l 1048576 $disk
    # What stood after the discarded part is still there.
    dd if=/tmp/pattern of=/tmp/rest bs=1M skip=2 2>/dev/null
    dd if=$disk of=/tmp/back bs=64k skip=48 count=32 iflag=direct 2>/dev/null
    check discard-leaves-the-rest cmp /tmp/rest /tmp/back
}

filesystem() {
    check mkfs $programs/mke2fs -q -t ext4 -F $disk
    check mount mount -t ext4 $disk /mnt
    check write dd if=/dev/urandom of=/mnt/large bs=1M count=12 conv=fsync
    mkdir /mnt/many
    for number in $(seq 1 100); do echo "file $number" >"/mnt/many/$number"; done
    check sync sync
    large=$(digest /mnt/large)
    many=$(cat /mnt/many/* | sha256sum | cut -d' ' -f1)
    check unmount umount /mnt
    echo 3 >/proc/sys/vm/drop_caches
    check remount mount -t ext4 $disk /mnt
    same large-file "$large" "$(digest /mnt/large)"
    same many-files "$many" "$(cat /mnt/many/* | sha256sum | cut -d' ' -f1)"
    check rewrite dd if=/dev/urandom of=/mnt/second bs=64k count=32 oflag=direct
    second=$(digest /mnt/second)
    rm /mnt/many/5?
    [ "$OUTBOARD_DISCARD" = 0 ] || check trim fstrim /mnt
    check unmount-again umount /mnt
    check file-system-whole $programs/e2fsck -fn $disk
    value file-large "$large"
    value file-second "$second"
}

write_cache() {
    for kind in "write through" "write back"; do
        echo "$kind" >$block/cache_type
        same "cache-$(echo "$kind" | tr ' ' -)" "$kind" "$(cat $block/cache_type)"
        check "flush-$(echo "$kind" | tr ' ' -)" dd if=/tmp/pattern of=$disk bs=64k count=4 seek=16 conv=fsync,notrunc
    done
}

identity
raw
if [ "$OUTBOARD_DISCARD" != 0 ]; then zeroes; fi
write_cache
filesystem
