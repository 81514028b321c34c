# A zoned disk: what the kernel makes of it, writes in sequence, each zone request.
disk=/dev/vda
queue=/sys/block/vda/queue
# So many sectors.
zone=$OUTBOARD_ZONE_SECTORS
check device wait_for $disk

# condition NUMBER: the zone's condition and write pointer, relative to its start.
condition() {
    $programs/blkzone report -o $(($1 * zone)) -c 1 $disk | sed -E 's/.*wptr (0x[0-9a-f]+).*zcond: ?[0-9a-fx]*\(([a-z]+)\).*/\2 \1/'
}

# put ZONE SECTOR-WITHIN COUNT: writes sectors of the pattern, of which each has its own place. Not by way of the page
# cache, which keeps no order, and where busybox's dd goes with buffers that are not aligned.
put() {
    /guest-writer copy $disk /tmp/pattern "$2" $(($1 * zone + $2)) "$3"
}

same model host-managed "$(cat $queue/zoned)"
same zone-size "$zone" "$(cat $queue/chunk_sectors)"
same zones "$OUTBOARD_ZONES" "$(cat $queue/nr_zones)"
same max-open 3 "$(cat $queue/max_open_zones)"
same max-active 4 "$(cat $queue/max_active_zones)"
same discard 0 "$(cat $queue/discard_max_bytes)"
check report-of-all $programs/blkzone report $disk
$programs/blkzone report $disk >/tmp/report
same reported "$OUTBOARD_ZONES" "$(grep -c start: /tmp/report)"
same conventional 2 "$(grep -c CONVENTIONAL /tmp/report)"
dd if=/dev/urandom of=/tmp/pattern bs=512 count="$zone" 2>/dev/null
same empty "em 0x000000" "$(condition 2)"
check first-write put 2 0 64
same open "oi 0x000040" "$(condition 2)"
check next-write put 2 64 8
check rest-of-the-zone put 2 72 $((zone - 72))
same full "fu" "$(condition 2 | cut -d' ' -f1)"
dd if=$disk of=/tmp/back bs=512 skip=$((2 * zone)) count="$zone" iflag=direct 2>/dev/null
check written-is-read cmp /tmp/pattern /tmp/back
check conventional-write put 0 24 8
refused write-out-of-place put 3 8 8
dmesg -c >/dev/null
same still-empty "em 0x000000" "$(condition 3)"
check open $programs/blkzone open -o $((3 * zone)) -c 1 $disk
same opened "oe 0x000000" "$(condition 3)"
check write-to-opened put 3 0 8
check close $programs/blkzone close -o $((3 * zone)) -c 1 $disk
same closed "cl 0x000008" "$(condition 3)"
check finish $programs/blkzone finish -o $((3 * zone)) -c 1 $disk
same finished "fu" "$(condition 3 | cut -d' ' -f1)"
check reset $programs/blkzone reset -o $((2 * zone)) -c 1 $disk
same emptied "em 0x000000" "$(condition 2)"
dd if=$disk of=/tmp/back bs=512 skip=$((2 * zone)) count="$zone" iflag=direct 2>/dev/null
dd if=/dev/zero of=/tmp/zeroes bs=512 count="$zone" 2>/dev/null
check emptied-reads-zeroes cmp /tmp/zeroes /tmp/back
check reset-all $programs/blkzone reset $disk
same none-full 0 "$($programs/blkzone report $disk | grep -c 'zcond:.*(fu)')"
# Four writers, each in a zone of its own; three zones may be open.
for writer in 4 5 6 7; do
    (for at in $(seq 0 16 240); do put $writer "$at" 16; done) >/dev/null 2>&1 &
done
wait
for writer in 4 5 6 7; do
    dd if=$disk of=/tmp/back bs=512 skip=$((writer * zone)) count=256 iflag=direct 2>/dev/null
    check writer-$writer cmp -n 131072 /tmp/pattern /tmp/back
done
value report "$($programs/blkzone report -o $((4 * zone)) -c 1 $disk)"
