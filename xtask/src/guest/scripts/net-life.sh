# The machine that asks the other one, while links, the other one, and the switch come and go.
. /scenario/net.sh
up 10.0.0.2 fd00::2
reach first 10.0.0.1 fd00::1

carrier link-at-first 1
value link-off 1
carrier link-off 0
refused ping-without-link ping -c 1 -W 1 10.0.0.1
value link-on 1
carrier link-on 1
reach after-link 10.0.0.1 fd00::1

value reboot 1
read -r line </dev/console
reach after-reboot 10.0.0.1 fd00::1
copies after-reboot 1048576 100 10.0.0.1 fd00::1

value kill 1
until_told 4194304
reach at-last 10.0.0.1 fd00::1
right_checksums checksums
