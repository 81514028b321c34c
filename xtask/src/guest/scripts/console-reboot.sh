# A console with a login, in a machine that starts again if it is told to.
. /scenario/login.sh
value login "$(uname -r)"
read -r word
if [ "$word" = reboot ]; then
    quiet_log
    reboot -f
    sleep 60
fi
