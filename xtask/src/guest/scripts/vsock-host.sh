# AF_VSOCK of a host: the program runs in here, on a kernel whose AF_VSOCK leads to itself (vsock_loopback), and a driver of
# ours has its guest's side.
. /scenario/inner.sh
[ ! -e /modules/vsock_loopback.ko ] || check loopback insmod /modules/vsock_loopback.ko
check device wait_for /dev/vsock
vsock=/guest-vsock
local=1

# From the guest to programs of the host.
for kind in stream seqpacket; do
    $vsock serve $kind "500${#kind}" >/tmp/$kind 2>&1 &
    says /tmp/$kind listening
done
serve vhost-user-vsock --guest-cid 3 --forward-cid $local --forward "80=vsock:$local:5006" \
    --forward-listen 6000-6002 --forward-listen-messages 6100
words copy "$OUTBOARD_BYTES bytes the same " vsock "copy:5006:$OUTBOARD_BYTES"
words messages "$OUTBOARD_BYTES bytes the same " vsock "messages:5009:$OUTBOARD_BYTES"
words forwarded "10000 bytes the same " vsock copy:80:10000
words nobody "refused " vsock refused:5001

# From programs of the host to the guest. What they say first waits until there is a guest, which stays until the last of them
# has everything. Of messages, no more are on their way back than the program has room for: where it has room for a part of
# one, AF_VSOCK sends that and does not say so.
$loader --library-path /host /host/vsock /tmp/inner.sock echo gather echo echo echo >/tmp/guest 2>&1 &
guest=$!
check from-host $vsock copy stream $local 6000 "$OUTBOARD_BYTES"
check from-host-half $vsock half $local 6002 "$OUTBOARD_BYTES"
for round in 1 2 3; do
    check "from-host-messages-$round" $vsock copy seqpacket $local 6100 200000
done
wait $guest
given="$OUTBOARD_BYTES bytes given back"
few="200000 bytes given back"
same guest "$given $given $few $few $few" "$(tr '\n' ' ' </tmp/guest | sed 's/ $//')"
ends
