# An SCMI device: what Linux's drivers make of it, and each message as its bytes, by
# the way that debugfs has for any of them.
mount -t debugfs debugfs /sys/kernel/debug
raw=/sys/kernel/debug/scmi/0/raw

# words WORD...: as they go over the wire.
words() {
    text=
    for word; do
        text="$text$(printf '\\x%02x\\x%02x\\x%02x\\x%02x' \
            $((word & 255)) $((word >> 8 & 255)) $((word >> 16 & 255)) $((word >> 24 & 255)))"
    done
    printf "$text"
}

# ask PROTOCOL MESSAGE WORD...: status and what follows it, in hexadecimal words.
ask() {
    header=$(($2 | $1 << 10))
    shift 2
    exec 3<>$raw/message
    words "$header" "$@" >/tmp/message
    dd if=/tmp/message bs=256 count=1 >&3 2>/dev/null
    dd bs=256 count=1 <&3 2>/dev/null | hexdump -v -e '1/4 "%08x "' | cut -d' ' -f2- | sed 's/ *$//'
    exec 3>&-
}

# answers NAME EXPECTED PROTOCOL MESSAGE WORD...
answers() {
    name=$1 expected=$2
    shift 2
    same "$name" "$expected" "$(ask "$@")"
}

# until_not TEXT COMMAND...: until the command prints something else, up to ten seconds.
until_not() {
    old=$1 tries=0
    shift
    while [ "$tries" -lt 100 ] && [ "$("$@" 2>/dev/null)" = "$old" ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
}

check raw wait_for $raw/message
set -- /sys/bus/virtio/drivers/scmi-virtio/virtio*
same version-1 1 "$(feature "$1" 32)"
same told 1 "$(feature "$1" 0)"
value features "$(cat "$1/features")"

# Linux's drivers.
same chip scmi_sensors "$(cat /sys/class/hwmon/hwmon0/name)"
same label board "$(cat /sys/class/hwmon/hwmon0/temp1_label)"
same temperature 40000 "$(cat /sys/class/hwmon/hwmon0/temp1_input)"
iio=/sys/bus/iio/devices/iio:device0
same iio motion "$(cat $iio/name)"
same gravity 9807 "$(cat $iio/in_accel_z_raw)"
same iio-scale 0.001000000 "$(cat $iio/in_accel_x_scale)"
same clock 24000000 "$(cat /sys/kernel/debug/clk/uart/clk_rate)"
check domain grep -q '^gpu ' /sys/kernel/debug/pm_genpd/pm_genpd_summary
regulator=$(grep -l '^vdd$' /sys/class/regulator/*/name)
regulator=${regulator%/name}
same regulator 1000000 "$(cat "$regulator/microvolts")"
policy=/sys/devices/system/cpu/cpufreq/policy0
same cpufreq-driver scmi "$(cat $policy/scaling_driver)"
# What cannot be sustained is a boost.
same cpufreq "600000 1200000" "$(sed 's/ *$//' $policy/scaling_available_frequencies)"
same cpufreq-boost "1800000" "$(sed 's/ *$//' $policy/scaling_boost_frequencies)"

# What is changed from outside arrives.
value ready yes
until_not 40000 cat /sys/class/hwmon/hwmon0/temp1_input
same temperature-changed 55500 "$(cat /sys/class/hwmon/hwmon0/temp1_input)"
same motion-changed -1500 "$(cat $iio/in_accel_x_raw)"
check frequency sh -c "echo 600000 >$policy/scaling_max_freq"
check frequency-is sh -c "sleep 0.2; [ \$(cat $policy/cpuinfo_cur_freq) = 600000 ]"

# Each message.
answers base-version "00000000 00020000" 16 0
answers base-attributes "00000000 00000107" 16 1
answers base-messages "00000000 00000000" 16 2 7
answers base-no-message "fffffffc" 16 2 127
answers base-vendor "00000000 6274754f 6472616f 00000000 00000000" 16 3
answers base-implementation "00000000 00000001" 16 5
answers base-list "00000000 00000007 14131211 00171615" 16 6 0
answers base-agent "00000000 00000001 73657567 00000074 00000000 00000000" 16 7 1
answers base-permissions "ffffffff" 16 9 1 0 0
answers power-version "00000000 00030000" 17 0
answers power-attributes "00000000 00000001 00000000 00000000 00000000" 17 1
answers power-domain "00000000 a0000000 00757067 00000000 00000000 00000000" 17 3 0
answers power-set "00000000" 17 4 0 0 $((1 << 30))
answers power-get "00000000 40000000" 17 5 0
answers power-notify "00000000" 17 6 0 1
answers system-version "00000000 00020000" 18 0
answers system-get "00000000 00000003" 18 4
answers performance-version "00000000 00030000" 19 0
answers performance-levels \
    "00000000 00000003 000927c0 000000c8 00000032 00124f80 00000258 00000032 001b7740 000005dc 00000032" 19 4 0 0
answers performance-limits "00000000" 19 5 0 1200000 600000
answers performance-limits-are "00000000 00124f80 000927c0" 19 6 0
answers performance-beyond "fffffffb" 19 7 0 1800000
answers performance-level "00000000" 19 7 0 600000
answers performance-level-is "00000000 000927c0" 19 8 0
answers clock-version "00000000 00020000" 20 0
answers clock-rates \
    "00000000 00000003 016e3600 00000000 02dc6c00 00000000 05b8d800 00000000" 20 4 0 0
answers clock-rate "00000000" 20 5 0 0 48000000 0
answers clock-rate-is "00000000 02dc6c00 00000000" 20 6 0
answers clock-off "00000000" 20 7 0 0
answers sensor-version "00000000 00030000" 21 0
answers sensor-reading "00000000 0000d8cc 00000000 00000000 00000000" 21 6 0 0
answers sensor-intervals "00000000 00000002 00007d1d 00000c9d" 21 8 0 0
answers sensor-none "fffffffc" 21 6 2 0
answers reset-version "00000000 00030000" 22 0
answers reset-domain "00000000 40000000 00000064 65687465 74656e72 00000000 00000000" 22 3 0
answers reset-assert "00000000" 22 4 0 2 0
answers voltage-version "00000000 00020000" 23 0
answers voltage-levels "00000000 00001003 000c3500 00124f80 000061a8" 23 4 0 0
answers voltage-level "00000000" 23 7 0 0 825000
answers voltage-level-is "00000000 000c96a8" 23 8 0
answers voltage-none "fffffffb" 23 7 0 0 5
answers voltage-off "00000000" 23 5 0 0
answers protocol-none "ffffffff" 24 0
answers message-short "fffffff6" 20 6

# What it is told unasked: a trip point at 70 degrees, a clock's rate, a request to shut down.
answers trip-point "00000000" 21 5 0 1 70000 0
answers trip-notify "00000000" 21 4 0 1
answers rate-notify "00000000" 20 9 0 1
answers system-notify "00000000" 18 5 1
exec 4<$raw/notification
value listening yes
# told HEADER: the next of that kind. Linux's drivers have asked for others.
told() {
    tries=0 event=
    while [ "$tries" -lt 300 ]; do
        tries=$((tries + 1))
        event=$(dd bs=256 count=1 <&4 2>/dev/null | hexdump -v -e '1/4 "%08x "' | sed 's/ *$//')
        case "$event" in
            "$1"*) break ;;
        esac
    done
    echo "$event"
}
same told-trip "00005700 00000000 00000000 00010000" "$(told 00005700)"
same told-rate "00005300 00000000 00000000 05b8d800 00000000" "$(told 00005300)"
same told-system "00004b00 00000000 00000001 00000000 00007530" "$(told 00004b00)"

# A sensor that fails.
value failing yes
until_not 71000 cat /sys/class/hwmon/hwmon0/temp1_input
refused fails cat /sys/class/hwmon/hwmon0/temp1_input
