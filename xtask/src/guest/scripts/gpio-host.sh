# A chip that a kernel has (gpio-sim): the program runs in here, and a driver of ours looks at it.
. /scenario/inner.sh
check sim insmod /modules/gpio-sim.ko
mount -t configfs configfs /sys/kernel/config 2>/dev/null
made=/sys/kernel/config/gpio-sim/test
mkdir -p $made/bank/line0 $made/bank/line2 $made/bank/line3 $made/bank/line4/hog
echo 6 >$made/bank/num_lines
echo bench >$made/bank/label
echo button >$made/bank/line2/name
echo NC >$made/bank/line0/name
echo NC >$made/bank/line3/name
echo spare >$made/bank/line4/name
echo taken >$made/bank/line4/hog/name
echo output-high >$made/bank/line4/hog/direction
echo 1 >$made/live
chip=/dev/$(cat $made/bank/chip_name)
lines=/sys/devices/platform/$(cat $made/dev_name)/$(cat $made/bank/chip_name)
check chip wait_for "$chip"

# changing NAME EXPECTED WORDS...: what our driver says while line 1 goes up and down all the time.
changing() {
    (while :; do
        echo pull-up >"$lines/sim_gpio1/pull"
        sleep 0.2
        echo pull-down >"$lines/sim_gpio1/pull"
        sleep 0.2
    done) &
    changes=$!
    name=$1
    expected=$2
    shift 2
    words "$name" "$expected" gpio "$@"
    kill $changes
    wait $changes
}

# All lines that nobody has, in their order. A name that two of them have is none.
serve vhost-user-gpio --chip "$chip"
words names ",,button,, " gpio names
words output "" gpio out:0=1
# The line is free a moment after the driver is gone.
gone() {
    tries=0
    while [ "$(cat "$lines/sim_gpio0/value")" != 0 ]; do
        tries=$((tries + 1))
        [ "$tries" -gt 100 ] && return 1
        sleep 0.1
    done
}
check output-gone gone
echo pull-up >"$lines/sim_gpio1/pull"
words levels "1 0 " gpio in:1 get:1 in:3 get:3
changing falling "interrupt " in:1 irq:1=falling unmask:1 wait:1
changing rising "interrupt " in:1 irq:1=rising unmask:1 wait:1
changing both "interrupt " in:1 irq:1=both unmask:1 wait:1
changing level-high "interrupt interrupt " in:1 irq:1=high unmask:1 wait:1 unmask:1 wait:1
words level-low-not "line 1 is masked " gpio in:1 irq:1=low unmask:1 irq:1=none wait:1
ends
# A list, in another order, by the chip's label: one with a name of ours, one with its own, one that somebody has.
serve vhost-user-gpio --chip bench --lines 5=lamp,2,4 --read-only 2
words list "lamp,button,spare " gpio names
words busy "in:2: the device refuses " gpio in:2
words read-only "out:1=1: the device refuses " gpio out:1=1
words beyond "get:3: the device refuses " gpio get:3
ends
serve vhost-user-gpio --chip bench --lines 5=lamp --hold-outputs
$loader --library-path /host /host/gpio /tmp/inner.sock out:0=1
same held 1 "$(cat "$lines/sim_gpio5/value")"
ends
refused no-such-line $loader --library-path /host /host/vhost-user-gpio --socket-path /tmp/never.sock --chip bench --lines 6

# A chip that goes while a line of it is held, with a trigger, has the program do nothing.
ticks() {
    set -- $(cut -d' ' -f14,15 "/proc/$inner/stat")
    echo $((${1:-0} + ${2:-0}))
}
idle() {
    before=$(ticks)
    sleep 2
    spent=$(($(ticks) - before))
    value "$1-ticks" $spent
    [ $spent -lt 50 ]
}
serve vhost-user-gpio --chip bench
$loader --library-path /host /host/gpio /tmp/inner.sock in:1 irq:1=both unmask:1 get:1 wait:1 get:1 >/tmp/said 2>&1 &
driver=$!
check held says /tmp/said 1
check idle-before idle before
echo 0 >$made/live
check idle-unplugged idle unplugged
wait $driver
same unplugged "1 no interrupt get:1: the device refuses " "$(tr '\n' ' ' </tmp/said)"
ends
