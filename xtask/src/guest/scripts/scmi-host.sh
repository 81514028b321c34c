# Attributes of a kernel: the program runs in here, on those of a thermometer (the simulated one outside, and Linux's driver
# for it) and of a bus, and a driver of ours looks at them.
. /scenario/inner.sh
adapter=$(grep -l i2c_virtio /sys/class/i2c-dev/*/name | cut -d/ -f5)
bus=${adapter#i2c-}
echo lm75 0x48 >/sys/bus/i2c/devices/$adapter/new_device
hwmon=$(cd /sys && echo bus/i2c/devices/$bus-0048/hwmon/hwmon*)
check thermometer wait_for "/sys/$hwmon/temp1_input"
cat >/tmp/view.toml <<END
[[sensor]]
name = "board"
source = "sysfs:$hwmon/temp1_input"
unit = "celsius"
scale = -3
trip-points = 1
intervals-ms = [100]

[[clock]]
name = "limit"
source = "sysfs:$hwmon/temp1_max"
rates = [42000, 60000]
may = ["rate"]

[[clock]]
name = "limit-seen"
source = "sysfs:$hwmon/temp1_max"
rates = [42000, 60000]

[[power]]
name = "probing"
source = "sysfs:bus/i2c/drivers_autoprobe"
may = ["state"]

[[power]]
name = "probing-seen"
source = "sysfs:bus/i2c/drivers_autoprobe"
END
off=$((1 << 30))

serve vhost-user-scmi --description /tmp/view.toml
words reading "0 21500 0 0 0 " scmi 0x15.6:0,0
# A number that may be set, and the same one where it may not.
words rate-set "0 0 60000 0 " scmi 0x14.5:0,0,60000,0 0x14.6:0
same rate-is-set 60000 "$(cat "/sys/$hwmon/temp1_max")"
words rate-impossible "-2 " scmi 0x14.5:0,0,70000,0
words rate-not-allowed "-3 0 60000 0 " scmi 0x14.5:0,1,42000,0 0x14.6:1
same rate-stays 60000 "$(cat "/sys/$hwmon/temp1_max")"
# The same with a switch.
words power-off "0 0 0 0 $off " scmi 0x11.5:0 0x11.4:0,0,$off 0x11.5:0
same power-is-off 0 "$(cat /sys/bus/i2c/drivers_autoprobe)"
words power-not-allowed "-3 0 $off " scmi 0x11.4:0,1,0 0x11.5:1
words power-on "0 " scmi 0x11.4:0,0,0
same power-is-on 1 "$(cat /sys/bus/i2c/drivers_autoprobe)"
# It becomes warmer outside while our driver waits to hear of it.
$loader --library-path /host /host/scmi /tmp/inner.sock 0x15.4:0,1 0x15.5:0,1,50000,0 say=armed event 0x15.6:0,0 \
    >/tmp/said 2>&1 &
driver=$!
check armed says /tmp/said armed
# It passes the point from where it was at its first look.
sleep 1
value armed yes
wait $driver
same tripped "0 0 armed 0 0 65536 0 60000 0 0 0 " "$(tr '\n' ' ' </tmp/said | sed 's/  */ /g')"
# A thermometer that went is an error.
echo 0x48 >/sys/bus/i2c/devices/$adapter/delete_device
words gone "-9 0 0 " scmi 0x15.6:0,0 0x11.5:0
ends
refused no-such-attribute $loader --library-path /host /host/vhost-user-scmi --socket-path /tmp/never.sock \
    --description /tmp/view.toml
