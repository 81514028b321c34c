# Input devices that programs make (uinput): the program runs in here, and a driver of ours looks at it.
. /scenario/inner.sh
check uinput insmod /modules/uinput.ko
[ -e /modules/evdev.ko ] && insmod /modules/evdev.ko
check control wait_for /dev/uinput

# plug NAME IDS ABILITIES...: a device; its node is in /tmp/NAME.said, what it does is written to /tmp/NAME.
plug() {
    mkfifo "/tmp/$1"
    /guest-uinput "$@" <"/tmp/$1" >"/tmp/$1.said" 2>&1 &
}

node() {
    says "/tmp/$1.said" /dev/input
    head -n 1 "/tmp/$1.said"
}

# hears NAME EVENTS: the driver heard that, and nothing else.
hears() {
    wait $driver
    same "$1" "$2" "$(tail -n 1 /tmp/said)"
}

plug keys 0003:046d:c31c:0110 key:1-58 led:0-2
exec 3>/tmp/keys
plug mouse 0003:046d:c077:0111 key:110-112 rel:0-1 rel:8
exec 4>/tmp/mouse
plug touch 0018:0416:038f:0100 prop:1 key:14a abs:0=0..1023 abs:1=-5..767 abs:2f=0..4 abs:35=0..1023 abs:36=-5..767 abs:39=0..65535
exec 5>/tmp/touch
keys=$(node keys)
mouse=$(node mouse)
touch=$(node touch)

# All that the kernel knows of a touch screen.
serve vhost-user-input --evdev-path "$touch"
words touch-name "touch " input name
words touch-ids "180016048f030001 " input ids
words touch-props "02 " input props
# EV_KEY: 0x14a is bit 2 of byte 41; EV_ABS: 0, 1, 2f, 35, 36, 39.
words touch-bits "$(printf '%082d04' 0) 0300000000806002 " input bits:1 bits:3
# Little-endian: minimum, maximum, fuzz, flat, resolution.
words touch-axes "00000000ff030000010000000200000003000000 fbffffffff020000010000000200000003000000 " input abs:0 abs:54
words touch-none "" input abs:3 bits:2
tap="3/2f/0 3/39/7 3/35/100 3/36/-3 1/14a/1 3/0/100 3/1/-3 0/0/0 3/2f/1 3/39/8 3/35/1023 3/36/767 0/0/0 3/2f/0 3/39/-1 0/0/0"
# The kernel leaves out what does not change: slot 0 is the one that is chosen, and said first by whoever asks.
listen until:3/39/-1
echo "$tap" >&5
wait $driver
value tapped "$(tail -n 1 /tmp/said)"
case " $(tail -n 1 /tmp/said) " in
*" 3/39/7 3/35/100 3/36/-3 1/14a/1 3/0/100 3/1/-3 0/0/0 3/2f/1 3/39/8 3/35/1023 3/36/767 0/0/0 3/2f/0 3/39/-1 ") ok tap ;;
*) fail tap "$(tail -n 1 /tmp/said)" ;;
esac
ends

# A keyboard and a mouse as one device; its light is the keyboard's.
serve vhost-user-input --evdev-path "$keys" --evdev-path "$mouse"
words both-name "keys " input name
words both-relative "0301 " input bits:2
words both-lights "07 " input bits:17
listen events:2
echo "1/1e/1 0/0/0" >&3
hears pressed "1/1e/1 0/0/0"
# A guest that starts anew learns what is pressed.
listen events:4 led:2=1
echo "1/1e/0 0/0/0" >&3
hears pressed-still "1/1e/1 0/0/0 1/1e/0 0/0/0"
check light says /tmp/keys.said 11/2/1
listen events:5
echo "2/0/-7 2/1/70000 2/8/1 1/111/1 0/0/0" >&4
hears moved "2/0/-7 2/1/70000 2/8/1 1/111/1 0/0/0"
echo "1/111/0 0/0/0" >&4

# The program stands still while the kernel drops events of a full buffer: what is pressed in the end is known.
listen until:1/30/1
kill -STOP $inner
awk 'BEGIN { for (i = 0; i < 3000; i++) print "1/1e/1 0/0/0 1/1e/0 0/0/0"; print "1/30/1 0/0/0" }' >&3
echo made >&3
check made says /tmp/keys.said made
kill -CONT $inner
wait $driver
# A key is up when it goes down, and down when it goes up.
check overrun awk -v said="$(tail -n 1 /tmp/said)" 'BEGIN {
    count = split(said, events, " ")
    for (at = 1; at <= count; at++) {
        split(events[at], event, "/")
        if (event[1] != "1") continue
        if (down[event[2]] + 0 == event[3] + 0) { print "event", at, events[at], "changes nothing"; exit 1 }
        down[event[2]] = event[3]
    }
    if (count > 8000 || down["30"] != 1 || down["1e"] == 1) { print count, "events"; exit 1 }
}'

# Unplugged while a key is down: it is let go, and the mouse goes on.
listen until:1/30/0
echo unplug >&3
hears unplugged "1/30/1 0/0/0 1/30/0"
listen events:3
echo "2/0/1 2/1/1 0/0/0" >&4
hears mouse-lives "2/0/1 2/1/1 0/0/0"
check gone says /tmp/inner.log "$keys is gone"
ends

# Two that have the same axis with another range cannot be one.
plug pad 0003:0001:0002:0003 key:130 abs:0=-32768..32767 abs:1=-32768..32767
exec 6>/tmp/pad
refused two-ranges "$loader" --library-path /host /host/vhost-user-input --socket-path /tmp/never.sock --evdev-path "$touch" --evdev-path "$(node pad)"
# Nor can two that have contacts in slots.
refused two-screens "$loader" --library-path /host /host/vhost-user-input --socket-path /tmp/never.sock --evdev-path "$touch" --evdev-path "$touch"
# Somebody else has it alone.
serve vhost-user-input --evdev-path "$mouse"
listen events:3
mv /tmp/inner.sock /tmp/first.sock
first=$inner
serve vhost-user-input --evdev-path "$mouse"
refused taken "$loader" --library-path /host /host/input /tmp/inner.sock name
check says-taken says /tmp/inner.log "cannot have alone"
ends
echo "2/0/3 2/1/3 0/0/0" >&4
hears first-lives "2/0/3 2/1/3 0/0/0"
kill $first
