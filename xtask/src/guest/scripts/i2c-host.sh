# Adapters of a kernel: the program runs in here, on one that speaks I2C (the simulated bus outside) and on one that knows
# SMBus only (i2c-stub), and a driver of ours looks at it.
. /scenario/inner.sh
adapter=$(grep -l i2c_virtio /sys/class/i2c-dev/*/name | cut -d/ -f5)
bus=${adapter#i2c-}
check stub insmod /modules/i2c-stub.ko chip_addr=0x30,0x31
stub=$(grep -l 'SMBus stub' /sys/class/i2c-dev/*/name | cut -d/ -f5)
check stub-adapter [ -n "$stub" ]

# An adapter that speaks I2C: of it three chips, one of them by another address, one for reading.
check prepare i2cset -y "$bus" 0x50 0x00 0x77
serve vhost-user-i2c --bus "$bus:0x50,0x21=0x20,0x48" --read-only 0x48
words i2c-write "1 of 1 " i2c w0x50=10,01,02,03
words i2c-read "2 of 2 01 02 03 " i2c w0x50=10 r0x50=3
words i2c-renamed "1 of 1 " i2c w0x21=03,aa
same i2c-renamed-there 0xaa "$(i2cget -y "$bus" 0x20 0x03)"
words i2c-not-allowed "0 of 1 " i2c w0x20=
words i2c-absent "0 of 1 " i2c w0x51=
words i2c-read-only-register "2 of 2 15 80 " i2c w0x48=00 r0x48=2
words i2c-read-only "0 of 1 " i2c w0x48=03,20,00
words i2c-read-only-byte "0 of 1 " i2c w0x48=03
words i2c-read-only-quick "0 of 1 " i2c w0x48=
words i2c-read-only-plain "1 of 1 15 " i2c r0x48=1
words i2c-two-chips "4 of 4 77 aa " i2c w0x50=00 r0x50=1 w0x21=03 r0x21=1
words i2c-failing-group "1 of 3 " i2c w0x50=10 w0x21=10 r0x50=1
words i2c-quick "1 of 1 " i2c w0x50=
ends
# A chip that a driver of this kernel has is left alone, unless it is forced.
echo lm75 0x48 >/sys/bus/i2c/devices/$adapter/new_device
serve vhost-user-i2c --bus "$bus:0x48"
words i2c-busy "0 of 2 " i2c w0x48=00 r0x48=2
ends
serve vhost-user-i2c --bus "$bus:0x48" --force
words i2c-forced "2 of 2 15 80 " i2c w0x48=00 r0x48=2
ends
echo 0x48 >/sys/bus/i2c/devices/$adapter/delete_device
# An adapter that knows SMBus only, by its name.
serve vhost-user-i2c --bus "SMBus stub driver:0x30,0x31"
words smbus-quick "1 of 1 " i2c w0x30=
words smbus-byte-data "1 of 1 " i2c w0x30=05,aa
words smbus-byte-data-back "2 of 2 aa " i2c w0x30=05 r0x30=1
words smbus-byte "1 of 1 " i2c w0x30=05
words smbus-byte-back "1 of 1 aa " i2c r0x30=1
words smbus-word "1 of 1 " i2c w0x31=06,34,12
words smbus-word-back "2 of 2 34 12 " i2c w0x31=06 r0x31=2
words smbus-block "1 of 1 " i2c w0x30=10,01,02,03,04,05
words smbus-block-back "2 of 2 01 02 03 04 05 " i2c w0x30=10 r0x30=5
words smbus-formless "0 of 2 " i2c w0x30=10,20 r0x30=1
words smbus-absent "0 of 1 " i2c w0x32=
ends
same stub-has 0xaa "$(i2cget -y "${stub#i2c-}" 0x30 0x05)"
