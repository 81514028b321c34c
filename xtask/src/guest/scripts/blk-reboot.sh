# The machine starts three times: each time the firmware drives the disk first,
# then the kernel. The count of starts is kept on the disk itself.
disk=/dev/vda
check device wait_for $disk
count=$(dd if=$disk bs=4k count=1 iflag=direct 2>/dev/null | tr -d '\0')
count=$((${count:-0} + 1))
value start "$count"
if [ "$count" -gt 1 ]; then
    dd if=$disk of=/tmp/back bs=64k skip=16 count=32 iflag=direct 2>/dev/null
    same "content-at-start-$count" "$(dd if=$disk bs=4k skip=1 count=1 iflag=direct 2>/dev/null | tr -d '\0')" "$(digest /tmp/back)"
fi
dd if=/dev/urandom of=/tmp/pattern bs=64k count=32 2>/dev/null
check "write-at-start-$count" dd if=/tmp/pattern of=$disk bs=64k seek=16 oflag=direct conv=notrunc
digest /tmp/pattern | dd of=/tmp/digest bs=4k conv=sync 2>/dev/null
echo "$count" | dd of=/tmp/count bs=4k conv=sync 2>/dev/null
dd if=/tmp/digest of=$disk bs=4k seek=1 oflag=direct conv=notrunc 2>/dev/null
check "note-at-start-$count" dd if=/tmp/count of=$disk bs=4k count=1 oflag=direct conv=notrunc,fsync
if [ "$count" -lt 3 ]; then
    quiet_log
    reboot -f
    sleep 60
fi
