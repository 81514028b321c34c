# fio writes, trims and compares the whole disk, over and over, until the host
# says stop, which may do meanwhile to the back end what it likes.
disk=/dev/vda
check device wait_for $disk
device=$(readlink -f /sys/block/vda/device)
same queues "$OUTBOARD_QUEUES" "$(ls /sys/block/vda/mq | wc -l)"

(
    read -r line
    : >/tmp/stop
) </dev/console &
(
    while [ ! -e /tmp/done ]; do
        read -r reads _ _ _ writes _ </sys/block/vda/stat
        echo "OUTBOARD-PROGRESS $((reads + writes))"
        sleep 0.1
    done
) &

# The seed of each block is in its header: without a look at it, what an earlier
# pass left there would do. By itself fio does not
# wait for a write before it trims the same block; nor does a disk.
passes=0
while [ ! -e /tmp/stop ]; do
    $programs/fio --name=torture --thread --eta=never --filename=$disk --direct=1 \
        --ioengine=io_uring --iodepth=16 --numjobs=2 --group_reporting \
        --size="$OUTBOARD_HALF" --offset_increment="$OUTBOARD_HALF" \
        --rw=randwrite --bsrange=512-64k --fsync=20 --randseed=$((passes + 1)) \
        --verify=crc32c --verify_header_seed=1 \
        --trim_percentage=5 --trim_verify_zero=1 --trim_backlog=16 --serialize_overlap=1 \
        >/tmp/fio 2>&1
    status=$?
    if [ $status -ne 0 ] || grep -q 'verify:\|^fio: pid=' /tmp/fio; then
        fail pass "$passes: status $status: $(grep -m 3 'verify:\|^fio: pid=' /tmp/fio | tr '\n' ' ')"
        break
    fi
    passes=$((passes + 1))
done
: >/tmp/done
if [ "$passes" -gt 0 ]; then ok passes; else fail passes "none came to its end"; fi
value passes "$passes"
value sectors "$(cat /sys/block/vda/size)"
