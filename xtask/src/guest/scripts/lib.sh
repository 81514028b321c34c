# What the scenarios share. A check that passes prints OUTBOARD-OK name; one
# that fails OUTBOARD-FAIL name reason; the end is OUTBOARD-END number-of-checks.
# Where a program and an applet of busybox share a name, busybox's shell takes the
# applet; hence the programs' own directory.
programs=/programs
checks=0

ok() {
    checks=$((checks + 1))
    echo "OUTBOARD-OK $1"
}

fail() {
    name=$1
    shift
    checks=$((checks + 1))
    echo "OUTBOARD-FAIL $name $*"
}

value() {
    echo "OUTBOARD-VALUE $*"
}

# check NAME COMMAND...: passes when the command does.
check() {
    name=$1
    shift
    if "$@" >/tmp/output 2>&1; then
        ok "$name"
    else
        fail "$name" "status $?: $(tail -n 3 /tmp/output | tr '\n' ' ')"
    fi
}

# refused NAME COMMAND...: passes when the command fails.
refused() {
    name=$1
    shift
    if "$@" >/tmp/output 2>&1; then fail "$name" "it succeeded"; else ok "$name"; fi
}

# same NAME EXPECTED ACTUAL
same() {
    if [ "$2" = "$3" ]; then ok "$1"; else fail "$1" "expected '$2', have '$3'"; fi
}

digest() {
    sha256sum "$1" | cut -d' ' -f1
}

# wait_for FILE: up to ten seconds.
wait_for() {
    tries=0
    while [ ! -e "$1" ]; do
        tries=$((tries + 1))
        [ "$tries" -gt 100 ] && return 1
        sleep 0.1
    done
}

# says FILE WORD: up to ten seconds, until it is in the file.
says() {
    tries=0
    until grep -q "$2" "$1" 2>/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -gt 100 ] && return 1
        sleep 0.1
    done
}

# held HOW: a connection to port 7 of the host is held, which says so, until the host ends it; the guest sees it end so.
held() {
    /guest-vsock hold 2 7 >/tmp/held 2>&1 &
    held=$!
    says /tmp/held connected
    value connected "$(cat /tmp/held)"
    wait $held
    same held 0 $?
    check "$1" grep -q "$1" /tmp/held
}

# The virtio device that a class device belongs to shows its feature bits as a
# string, bit 0 first.
feature() {
    cut -c "$(($2 + 1))" "$1/features"
}

# The kernel's log has nothing to complain about.
quiet_log() {
    dmesg >/tmp/log
    {
        grep -iE 'I/O error|EXT4-fs (error|warning)|virtio.*(fail|error|broken)|(vda|virtio).*timed out|blocked for more than' /tmp/log
        grep -E 'BUG:|WARNING:|Oops|Call Trace' /tmp/log
    } >/tmp/complaints
    if [ -s /tmp/complaints ]; then
        fail kernel-log "$(head -n 3 /tmp/complaints | tr '\n' ' ')"
    else
        ok kernel-log
    fi
}

finish() {
    quiet_log
    echo "OUTBOARD-END $checks"
    sync
    poweroff -f
    sleep 60
}
