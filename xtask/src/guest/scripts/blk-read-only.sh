# A disk that must not be written: the content is there, every write is refused.
disk=/dev/vda
block=/sys/block/vda
check device wait_for $disk
same size "$OUTBOARD_SECTORS" "$(cat $block/size)"
same read-only 1 "$(cat $block/ro)"
dd if=$disk of=/tmp/content bs=64k iflag=direct 2>/dev/null
value content "$(digest /tmp/content)"
refused write dd if=/dev/zero of=$disk bs=4k count=1 oflag=direct conv=notrunc
# Even when the kernel is talked into it.
blockdev --setrw $disk 2>/dev/null
dd if=/dev/zero of=$disk bs=4k count=1 oflag=direct conv=notrunc 2>/dev/null
dd if=$disk of=/tmp/again bs=64k iflag=direct 2>/dev/null
same content-unchanged "$(digest /tmp/content)" "$(digest /tmp/again)"
dmesg -c >/dev/null
