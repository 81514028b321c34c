# The machine that moves, and asks the other one all the time.
. /scenario/net.sh
up 10.0.0.2 fd00::2
reach first 10.0.0.1 fd00::1
until_told 262144
reach at-last 10.0.0.1 fd00::1
right_checksums checksums
