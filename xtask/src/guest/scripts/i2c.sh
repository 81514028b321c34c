# An I2C adapter with simulated chips: an EEPROM at 0x50, a thermometer at 0x48, sixteen registers at 0x20.
adapter=$(grep -l i2c_virtio /sys/class/i2c-dev/*/name | cut -d/ -f5)
check adapter [ -n "$adapter" ]
bus=${adapter#i2c-}
same version-1 1 "$(feature "$(echo /sys/bus/virtio/drivers/i2c_virtio/virtio*)" 32)"
same packed "$OUTBOARD_PACKED" "$(feature "$(echo /sys/bus/virtio/drivers/i2c_virtio/virtio*)" 34)"
# Who answers.
found=$(i2cdetect -y "$bus" | sed 1d | cut -d: -f2- | tr -s ' -' '\n' | grep . | tr '\n' ' ')
same detect "20 48 50 " "$found"
# Messages of each kind. Linux says that a chip does not answer by fewer messages, which only SMBus's calls take for an error.
check set i2cset -y "$bus" 0x50 0x10 0x5a
same get 0x5a "$(i2cget -y "$bus" 0x50 0x10)"
check transfer-write i2ctransfer -y "$bus" w4@0x20 0x02 0xde 0xad 0xbe
same transfer "0xde 0xad 0xbe" "$(i2ctransfer -y "$bus" w1@0x20 0x02 r3@0x20)"
refused absent i2cget -y "$bus" 0x51 0x00
refused no-such-register i2cget -y "$bus" 0x20 0x10
# Linux's own drivers for the chips.
echo 24c02 0x50 >/sys/bus/i2c/devices/$adapter/new_device
eeprom=/sys/bus/i2c/devices/$bus-0050/eeprom
check eeprom wait_for $eeprom
dd if=/dev/urandom of=/tmp/pattern bs=256 count=1 2>/dev/null
check eeprom-write dd if=/tmp/pattern of=$eeprom bs=256
check eeprom-same cmp /tmp/pattern $eeprom
value eeprom "$(digest $eeprom)"
echo lm75 0x48 >/sys/bus/i2c/devices/$adapter/new_device
hwmon=$(echo /sys/bus/i2c/devices/$bus-0048/hwmon/hwmon*)
same temperature 21500 "$(cat "$hwmon/temp1_input")"
echo 42000 >"$hwmon/temp1_max"
same limit 42000 "$(cat "$hwmon/temp1_max")"
# A thousand transfers.
turn=0
while [ $turn -lt 250 ]; do
    i2ctransfer -y "$bus" w2@0x20 0x00 $turn >/dev/null || break
    [ "$(i2ctransfer -y "$bus" w1@0x20 0x00 r1@0x20)" = "$(printf '0x%02x' $turn)" ] || break
    turn=$((turn + 1))
done
same many 250 $turn
